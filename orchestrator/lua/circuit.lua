-- Open or close a provider's circuit: once, however many saw the reason, and only by one who was admitted in its current
-- epoch, so that a call from before cannot undo what happened since.
-- ARGV: step, circuit, "open" | "closed", epoch, cooldown in ms, data of the event (JSON)
-- → {"ok"} | {"stale"}
local step, name, state, epoch, cooldown = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local CIRCUITED = CIRCUIT .. name
local before = redis.call('HGET', CIRCUITED, 'state') or 'closed'
if before == state or tonumber(redis.call('HGET', CIRCUITED, 'epoch') or '0') ~= epoch then return reply('stale') end
redis.call('HSET', CIRCUITED, 'state', state, 'epoch', epoch + 1)
redis.call('HDEL', CIRCUITED, 'probe')
if state == 'open' then
  redis.call('HSET', CIRCUITED, 'opened_ms', NOW, 'until_ms', NOW + cooldown)
else
  redis.call('HSET', CIRCUITED, 'failures', 0)
end
if known() then emit(state == 'open' and 'breaker.opened' or 'breaker.closed', step, ARGV[6], state == 'open' and 'WARN' or 'INFO') end
return reply('ok')
