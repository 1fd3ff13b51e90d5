-- Record how a step ended, its files and contents, the events that tell of it, and what has become ready: once.
-- Only the current token may commit. A repeated commit of the same token (its reply was lost) gets the same answer.
-- ARGV: step, token, "succeeded" | "failed", result (JSON), data of the event (JSON), files (JSON list),
--       steps to add to the plan (JSON [[id, kind, needs], …]), data of plan.expanded (JSON),
--       then pairs: sha256, compressed content
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"stale"} nothing was changed
local step, token, outcome, result, data = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not known() then return reply('stale') end
local record = load(step)
if not record or record.token ~= token then return reply('stale') end
if record.status ~= 'running' then return reply('ok', record.sent) end

for i = 9, #ARGV, 2 do redis.call('HSETNX', key('blobs'), ARGV[i], ARGV[i + 1]) end
if outcome == 'failed' then
  fail(step, record, result, data)
  settle()
  return reply('ok')
end

leave(step, record)
forget_calls(step)
record.status = 'succeeded'
save(step, record)
redis.call('HSET', key('results'), step, result)
redis.call('SREM', key('open'), step)
for _, file in ipairs(cjson.decode(ARGV[6])) do
  local before = redis.call('HGET', key('files'), file.path)
  local reason = 'created'
  if before then reason = cjson.decode(before).sha256 == file.sha256 and 'nochange' or 'updated' end
  redis.call('HSET', key('files'), file.path, cjson.encode(file))
  emit('file.written', step, {
    path = file.path, sha256 = file.sha256, size_bytes = file.size_bytes, mode = file.mode,
    wrote = reason ~= 'nochange', reason = reason,
  })
end
emit('step.succeeded', step, data)
let_others_go_on(step)
local additions = cjson.decode(ARGV[7])
if #additions > 0 then
  grow(step, additions)
  emit('plan.expanded', step, ARGV[8])
end
local sent = dispatch()
if #sent > 0 then
  record.sent = sent
  save(step, record)
end
settle()
return reply('ok', sent)
