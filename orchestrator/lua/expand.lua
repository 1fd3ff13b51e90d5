-- A running step makes way for steps that it adds to the plan: it ends with the last of them, without running again, and
-- what waits for it waits for all of them. Repeated, it adds nothing that is there.
-- ARGV: step, token, steps (JSON [[id, kind, needs], …]), data of plan.expanded (JSON), result to commit at the end (JSON),
--       data of step.succeeded (JSON), then pairs: sha256, compressed content
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"stale"} the step is not the caller's
local step, token, additions = ARGV[1], ARGV[2], cjson.decode(ARGV[3])
if not known() then return reply('stale') end
local record = load(step)
if not record or record.token ~= token then return reply('stale') end
if record.status ~= 'running' then return reply('ok', record.sent) end
for i = 7, #ARGV, 2 do redis.call('HSETNX', key('blobs'), ARGV[i], ARGV[i + 1]) end
leave(step, record)
forget_calls(step)
record.status, record.gate = 'expanded', cjson.encode({ result = ARGV[5], about = ARGV[6] })
save(step, record)
emit('plan.expanded', step, ARGV[4])
record.unmet = grow(step, additions, step)
if record.unmet == 0 and alive() then
  join(step, record)
  let_others_go_on(step)
else
  save(step, record)
end
local sent = dispatch()
if #sent > 0 then
  record = load(step)
  record.sent = sent
  save(step, record)
end
settle()
return reply('ok', sent)
