-- Bring back a job that Redis has lost, from what its run folder tells: as it was after its last event, not running.
-- A job id that exists is refused.
-- ARGV: fields of the job's hash, next, steps (step → record), results (step → result), files (path → file):
--       JSON objects whose values are strings; how many contents; then pairs: sha256, compressed content; then pairs:
--       stream id, JSON of the event's fields
-- → {"ok"} | {"exists"}
if known() then return reply('exists') end
for field, value in pairs(cjson.decode(ARGV[1])) do redis.call('HSET', JOB, field, value) end
for i, suffix in ipairs({ 'next', 'steps', 'results', 'files' }) do
  for field, value in pairs(cjson.decode(ARGV[1 + i])) do redis.call('HSET', key(suffix), field, value) end
end
local history = 7 + 2 * tonumber(ARGV[6])
for i = 7, history - 1, 2 do redis.call('HSET', key('blobs'), ARGV[i], ARGV[i + 1]) end
for i = history, #ARGV, 2 do
  local fields = cjson.decode(ARGV[i + 1])
  redis.call('XADD', key('events'), ARGV[i], 'type', fields.type, 'level', fields.level,
    'step', fields.step or '', 'data', fields.data or '')
end
redis.call('ZADD', JOBS, job('created_ms'), JOB_ID)
expire_all(job('ttl_s'))
return reply('ok')
