-- Begin a further attempt of a job that ended without success, or that is stuck: what is done stays done. Two resumes
-- at once make one attempt, since after the first the job is under way. It is stuck when nothing of it runs under a
-- live lease and nothing of it is in the queue.
-- ARGV: driver, fields to replace in the job's hash (JSON object), "force" to resume whatever the status is,
--       steps that are to run again and why (JSON: step → reason), id of this call
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"refused", {status}} | {"unknown"}
if not known() then return reply('unknown') end
if repeated(ARGV[5]) then return job('answer') end
local status = job('status')
local ON_ITS_WAY_MS = 2000 -- a message between its sender, the queue and a worker

local function under_way()
  if redis.call('ZCOUNT', key('leases'), NOW, '+inf') > 0 then return true end
  if redis.call('ZCARD', key('parked')) > 0 then return true end
  for _, step in ipairs(redis.call('SMEMBERS', key('queued'))) do
    if not gone(load(step)) then return true end
  end
  return NOW - tonumber(job('on_its_way_ms') or job('created_ms')) < ON_ITS_WAY_MS
end

if ARGV[3] ~= 'force' then
  if status == 'succeeded' then return reply('refused', { status }) end
  if unfinished() and under_way() then
    return reply('refused', { status })
  end
end
redis.call('PERSIST', JOB)
for _, suffix in ipairs(SUFFIXES) do redis.call('PERSIST', key(suffix)) end
redis.call('HDEL', JOB, 'failures', 'finished_ms')
for field, value in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', JOB, field, value) end
redis.call('HSET', JOB, 'driver', ARGV[1])
local attempt = redis.call('HINCRBY', JOB, 'attempt', 1)
emit('job.resumed', nil, { attempt = attempt, was = status })
for step, reason in pairs(cjson.decode(ARGV[4])) do emit('step.lost', step, { reason = reason }, 'WARN') end
return remember(ARGV[5], reply('ok', begin()))
