-- Among all steps of the fleet that ask the same question at once, let one ask it; the others wait for its answer. The
-- lead belongs to the step's token: it ends with the call, or with the step. Then another has it, and those who were parked
-- meanwhile are due.
-- ARGV: step, token, cache key, "lead" | "land"
-- → {"lead", {1}} the caller asks, but first looks into the cache: there is an answer now | {"lead", {0}} the caller asks
-- {"wait"} somebody asks already | {"ok"} landed | {"stale"} the step is not the caller's
local step, token, name = ARGV[1], ARGV[2], ARGV[3]
if ARGV[4] == 'land' then
  drop(token, cjson.encode({ 'flight', name, token }))
  return reply('ok')
end
if not known() then return reply('stale') end
local record = load(step)
if not record or record.status ~= 'running' or record.token ~= token then return reply('stale') end
local leader = redis.call('GET', FLIGHT .. name)
if leader and leader ~= token and redis.call('EXISTS', HOLDS .. leader) == 1 then
  redis.call('SADD', FLIGHT .. name .. ':waiters', key('parked') .. ' ' .. step)
  redis.call('EXPIRE', FLIGHT .. name .. ':waiters', 3600)
  return reply('wait')
end
redis.call('SET', FLIGHT .. name, token)
hold(token, 'flight', name, token)
return reply('lead', { redis.call('EXISTS', CACHE .. name) })
