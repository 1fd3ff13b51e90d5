-- Let a step's call to a provider begin, or say what it has to wait for. It begins when the job's budget has enough left
-- for it, the model's limits have room, and the provider's circuit lets it through: all at once, or nothing is taken.
-- What it takes belongs to the step's token (see hold in lib.lua). `llm.request` is told here, so that in the stream no
-- call begins after the failure that opens a circuit.
-- ARGV: JSON {step, token, call,
--   budget: {tokens_in, tokens_out, least_out, usd_in, usd_per_token_out},
--   limit: {name, requests_per_minute, tokens_per_minute, concurrency},
--   circuit: {name, threshold, cooldown_ms, about},
--   news: [[type, level, data (JSON)], …]}
-- → {"go", {state of the circuit, its epoch, its failures, tokens that the answer may have at most, second of the window}}
--   {"wait", {what for ("budget" | "limit" | "circuit"), reason, ms}}
--   {"over", {reason}} the budget will never have enough | {"stale"} the step is not the caller's
local WINDOW_S = 60

local ask = cjson.decode(ARGV[1])
local step, token, call = ask.step, ask.token, ask.call
if not known() then return reply('stale') end
local record = load(step)
if not record or record.status ~= 'running' or record.token ~= token then return reply('stale') end
for _, entry in ipairs(redis.call('SMEMBERS', HOLDS .. token)) do
  local what, answer, whose = unpack(cjson.decode(entry))
  if what == 'call' and whose == call then return answer end -- the reply to this very call was lost
end

local function wait(what, reason, ms) return reply('wait', { what, reason, math.max(1, math.ceil(ms)) }) end

-- The budget: what was spent, what calls in flight have reserved, what this one needs. With nothing else in flight the
-- answer is given what is left, if that makes sense; else it waits to see what the others really take.
local budget, reserved_tokens, reserved_usd = ask.budget, 0, 0
local out = budget.tokens_out
for _, one in ipairs(redis.call('HVALS', key('reserved'))) do
  local tokens, usd = string.match(one, '(%S+) (%S+)')
  reserved_tokens, reserved_usd = reserved_tokens + tonumber(tokens), reserved_usd + tonumber(usd)
end
local most_tokens, most_usd = tonumber(job('budget_tokens') or ''), tonumber(job('budget_usd') or '')
local spent_tokens, spent_usd = tonumber(job('spent_tokens') or '0'), tonumber(job('spent_usd') or '0')
if most_tokens then out = math.min(out, most_tokens - spent_tokens - reserved_tokens - budget.tokens_in) end
local costs = budget.usd_per_token_out and budget.usd_in + budget.usd_per_token_out > 0
if most_usd and costs then
  local left = most_usd - spent_usd - reserved_usd - budget.usd_in
  if left < 0 then out = -1 end
  if budget.usd_per_token_out > 0 then out = math.min(out, math.floor(left / budget.usd_per_token_out)) end
end
if most_usd and not budget.usd_per_token_out then
  return reply('over', { 'the budget is in USD, and the price of ' .. ask.limit.name .. ' is not known: name it in ORCH_MODELS_FILE' })
end
if out < budget.tokens_out and redis.call('HLEN', key('reserved')) > 0 then
  return wait('budget', 'the budget: calls in flight have reserved the rest of it', 1000)
end
if out < budget.least_out then
  local needs = budget.tokens_in + budget.least_out
  local reason = 'the budget is used up: '
  if most_tokens then reason = reason .. spent_tokens .. ' of ' .. most_tokens .. ' tokens spent; ' end
  if most_usd then reason = reason .. string.format('%.6g of %.6g USD spent; ', spent_usd, most_usd) end
  reason = reason .. 'the next call needs about ' .. needs .. ' tokens'
  emit('budget.exceeded', step, {
    reason = reason, tokens = most_tokens, usd = most_usd, spent_tokens = spent_tokens, spent_usd = spent_usd, needs_tokens = needs,
  }, 'ERROR')
  return reply('over', { reason })
end

-- The model's limits: ours, and what its vendor said is left.
local limit = ask.limit
local LIMITED, second = LIMIT .. limit.name, math.floor(NOW / 1000)
local running = LIMITED .. ':running'

local function until_room(counts, most, wanted)
  local seconds, sum = {}, 0
  for i = 1, #counts, 2 do
    local at = tonumber(counts[i])
    if at > second - WINDOW_S then
      seconds[#seconds + 1] = { at, tonumber(counts[i + 1]) }
      sum = sum + seconds[#seconds][2]
    end
  end
  table.sort(seconds, function(a, b) return a[1] < b[1] end)
  for _, one in ipairs(seconds) do
    if sum + wanted <= most then break end
    sum = sum - one[2]
    if sum + wanted <= most or sum <= 0 then return (one[1] + WINDOW_S) * 1000 - NOW end
  end
end

local function in_window(suffix, most, wanted)
  return most and until_room(redis.call('HGETALL', LIMITED .. suffix), most, wanted)
end

local function said(field) return tonumber(redis.call('HGET', LIMITED, field) or '') end

local function vendor_wait()
  if (said('until_ms') or 0) > NOW then return said('until_ms') - NOW end
  if (said('requests_until_ms') or 0) > NOW and (said('requests') or 1) < 1 then return said('requests_until_ms') - NOW end
  if (said('tokens_until_ms') or 0) > NOW and (said('tokens') or budget.tokens_in) < budget.tokens_in then
    return said('tokens_until_ms') - NOW
  end
end

local tokens = budget.tokens_in + out
local ms = vendor_wait()
if ms then return wait('limit', limit.name .. ' is limited by its vendor', ms) end
ms = in_window(':requests', limit.requests_per_minute, 1)
if ms then return wait('limit', limit.name .. ': ' .. limit.requests_per_minute .. ' requests a minute', ms) end
ms = in_window(':tokens', limit.tokens_per_minute, tokens)
if ms then return wait('limit', limit.name .. ': ' .. limit.tokens_per_minute .. ' tokens a minute', ms) end
if limit.concurrency and redis.call('ZCARD', running) >= limit.concurrency then
  return wait('limit', limit.name .. ': ' .. limit.concurrency .. ' calls at once', math.min(said('usual_ms') or 500, 10000))
end

-- The circuit: closed, unless the last failures in a row have reached the threshold; then for one probe at a time.
local circuit, state, epoch, failures = ask.circuit, 'closed', 0, 0
if circuit then
  local CIRCUITED = CIRCUIT .. circuit.name
  local function of(field) return redis.call('HGET', CIRCUITED, field) end
  state, epoch, failures = of('state') or 'closed', tonumber(of('epoch') or '0'), tonumber(of('failures') or '0')
  if state == 'closed' and failures >= circuit.threshold then state = 'open' end -- who counted it will say so, or has died
  if state ~= 'closed' then
    local over = tonumber(of('until_ms') or '0')
    if state == 'open' and NOW < over then
      return wait('circuit', 'the circuit of ' .. circuit.name .. ' is open', over - NOW)
    end
    if of('probe') then -- what has lasted so long may well last as long again
      local lasted = NOW - tonumber(of('probed_ms') or NOW)
      local ms = math.min(math.max(lasted, 500), 10000)
      return wait('circuit', 'the circuit of ' .. circuit.name .. ' is being probed', ms)
    end
    if of('state') ~= 'half-open' then emit('breaker.half_open', step, circuit.about) end
    state = 'half-open'
    redis.call('HSET', CIRCUITED, 'state', state, 'probe', call, 'probed_ms', NOW)
    hold(token, 'probe', circuit.name, call)
  end
  redis.call('SADD', CIRCUITS, circuit.name)
end

local function count(suffix, amount)
  redis.call('HINCRBY', LIMITED .. suffix, second, amount)
  for _, at in ipairs(redis.call('HKEYS', LIMITED .. suffix)) do
    if tonumber(at) <= second - WINDOW_S then redis.call('HDEL', LIMITED .. suffix, at) end
  end
  redis.call('EXPIRE', LIMITED .. suffix, 2 * WINDOW_S)
end

if limit.requests_per_minute then count(':requests', 1) end
if limit.tokens_per_minute then count(':tokens', tokens) end
if said('requests') then redis.call('HINCRBY', LIMITED, 'requests', -1) end
if said('tokens') then redis.call('HINCRBY', LIMITED, 'tokens', 0 - budget.tokens_in) end
if limit.concurrency then
  redis.call('ZADD', running, NOW, call)
  hold(token, 'slot', limit.name, call)
end
if most_tokens or most_usd then
  local usd = budget.usd_per_token_out and budget.usd_in + out * budget.usd_per_token_out or 0
  redis.call('HSET', key('reserved'), call, string.format('%d %.12g', tokens, usd))
  hold(token, 'budget', '', call)
end
for _, act in ipairs(ask.news) do emit(act[1], step, act[3], act[2]) end
local answer = reply('go', { state, epoch, failures, out, second })
hold(token, 'call', answer, call)
return answer
