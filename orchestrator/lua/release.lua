-- Give a running step back so that another worker runs it: at once, or not before a time (it is parked then, and
-- holds no place meanwhile). Nobody is blamed for it.
-- ARGV: step, token, reason, ms to wait (0: none), how far the calls of its question got (JSON, "" when nothing failed)
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"stale"} the step is not the caller's
local step, token, reason, wait = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if not known() then return reply('stale') end
local record = load(step)
if not record or record.status ~= 'running' or record.token ~= token then return reply('stale') end
if not alive() then wait = 0 end
record.retry = ARGV[5] ~= '' and ARGV[5] or nil
if wait > 0 then
  record.tries = record.tries + 1
  park(step, record, wait)
else
  again(step, record)
end
emit('step.retrying', step, { reason = reason, wait_ms = wait, tries = record.tries }, 'WARN')
local sent = dispatch()
settle()
return reply('ok', sent)
