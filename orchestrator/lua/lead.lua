-- Tell the fleet that a worker lives, and let one of them lead recovery for the next few seconds.
-- Recovery acts on leases only when the fleet has been calm: after an outage of Redis, or of every leader, the living
-- have to renew their leases first.
-- ARGV: worker, its slots (0: it is leaving), ms until it counts as gone, ms of calm before leases are acted on, what it
--       serves (JSON)
-- → {"lead", {"calm" | "rough", job id, …}} the jobs to look after | {"follow"}
local worker, slots, ttl, settling = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('HSET', WORKERS, worker, cjson.encode({ slots = slots, until_ms = NOW + ttl, serves = ARGV[5] }))
local total, workers = 0, redis.call('HGETALL', WORKERS)
for i = 1, #workers, 2 do
  local about = cjson.decode(workers[i + 1])
  if about.until_ms < NOW or about.slots == 0 then redis.call('HDEL', WORKERS, workers[i]) else total = total + about.slots end
end
if total > 0 then redis.call('SET', SLOTS, total, 'PX', ttl) else redis.call('DEL', SLOTS) end
if slots == 0 then
  if redis.call('GET', LEADER) == worker then redis.call('DEL', LEADER) end
  return reply('follow')
end

local leader = redis.call('GET', LEADER)
if leader and leader ~= worker then return reply('follow') end
redis.call('SET', LEADER, worker, 'PX', ttl)
local last, since = tonumber(redis.call('HGET', TICKS, 'last') or '0'), tonumber(redis.call('HGET', TICKS, 'since') or '0')
if NOW - last > ttl then since = NOW end
redis.call('HSET', TICKS, 'last', NOW, 'since', since)
for _, id in ipairs(redis.call('ZRANGE', JOBS, 0, 9)) do -- the oldest of the list, which have expired
  if redis.call('EXISTS', PREFIX .. '{' .. id .. '}') == 0 then redis.call('ZREM', JOBS, id) end
end
local answer = redis.call('SMEMBERS', ALIVE)
table.insert(answer, 1, NOW - since >= settling and 'calm' or 'rough')
return reply('lead', answer)
