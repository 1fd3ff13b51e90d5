-- A call to a provider has ended: give back what it held, book what it took, count it for the circuit, tell of it. The
-- step may be somebody else's by now, or over: what was paid for is booked all the same.
-- ARGV: JSON {step, token, call,
--   outcome: "success" | "failure" | "neutral" (says nothing of the provider: it was cancelled),
--   circuit: {name, epoch, cooldown_ms}, limit, second, reserved_tokens, tokens, usd, took_ms,
--   blocked_ms, allowance: {requests, requests_reset_s, tokens, tokens_reset_s},
--   news: [[type, level, data (JSON)], …], answer: [cache key of the call, entry (JSON)]}
-- → {"ok", {failures of the circuit in a row}}
local LONGEST_RESET_MS = 60000

local ask = cjson.decode(ARGV[1])
local LIMITED, failures = LIMIT .. ask.limit, 0
local before = redis.call('GET', SETTLED .. ask.call)
if before then return before end -- its reply was lost

for _, entry in ipairs(redis.call('SMEMBERS', HOLDS .. ask.token)) do
  local held_for = cjson.decode(entry)
  if held_for[3] == ask.call and (held_for[1] ~= 'probe' or ask.outcome == 'neutral') then drop(ask.token, entry) end
end

if known() then
  if ask.tokens then redis.call('HINCRBY', JOB, 'spent_tokens', ask.tokens) end
  if ask.usd then redis.call('HINCRBYFLOAT', JOB, 'spent_usd', string.format('%.12f', ask.usd)) end
  if ask.answer and unfinished() then redis.call('HSET', key('paid'), ask.step .. ':' .. ask.answer[1], ask.answer[2]) end
  for _, act in ipairs(ask.news) do emit(act[1], ask.step, act[3], act[2]) end
end

if ask.tokens and redis.call('HEXISTS', LIMITED .. ':tokens', ask.second) == 1 then
  redis.call('HINCRBY', LIMITED .. ':tokens', ask.second, ask.tokens - ask.reserved_tokens)
end
if ask.outcome == 'success' then
  local usual = tonumber(redis.call('HGET', LIMITED, 'usual_ms') or ask.took_ms)
  redis.call('HSET', LIMITED, 'usual_ms', math.floor(0.8 * usual + 0.2 * ask.took_ms))
end
if ask.blocked_ms then redis.call('HSET', LIMITED, 'until_ms', NOW + ask.blocked_ms) end
for _, what in ipairs({ 'requests', 'tokens' }) do
  local left, reset = ask.allowance and ask.allowance[what], ask.allowance and ask.allowance[what .. '_reset_s']
  if left and reset then -- until the allowance is whole again: there is something of it long before
    local whole_ms = math.min(math.floor(reset * 1000), LONGEST_RESET_MS)
    redis.call('HSET', LIMITED, what, left, what .. '_until_ms', NOW + whole_ms)
  end
end
redis.call('EXPIRE', LIMITED, 86400)

if ask.circuit then
  local CIRCUITED = CIRCUIT .. ask.circuit.name
  local same = tonumber(redis.call('HGET', CIRCUITED, 'epoch') or '0') == ask.circuit.epoch
  if same and ask.outcome == 'failure' then
    failures = redis.call('HINCRBY', CIRCUITED, 'failures', 1)
    redis.call('HSET', CIRCUITED, 'until_ms', NOW + ask.circuit.cooldown_ms)
  elseif same and ask.outcome == 'success' and (redis.call('HGET', CIRCUITED, 'state') or 'closed') == 'closed' then
    redis.call('HSET', CIRCUITED, 'failures', 0)
  end
end
local answer = reply('ok', { failures })
redis.call('SET', SETTLED .. ask.call, answer, 'EX', 600)
return answer
