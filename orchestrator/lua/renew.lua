-- Prolong the lease of a running step, also after it ran out, as long as nobody else has taken the step.
-- ARGV: step, token, lease in ms
-- → {"ok"} | {"stale"} : the step is no longer this worker's, stop working on it
if not known() then return reply('stale') end
local record = load(ARGV[1])
if not record or record.status ~= 'running' or record.token ~= ARGV[2] then return reply('stale') end
redis.call('ZREM', key('leases'), ARGV[1]) -- which needs no memory: a script that has begun may go on where there is none
redis.call('ZADD', key('leases'), NOW + tonumber(ARGV[3]), ARGV[1])
return reply('ok')
