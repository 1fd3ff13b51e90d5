-- Create a job and begin its first attempt. A job id that exists is refused, so a repeated call creates nothing.
-- ARGV: fields of the job's hash (JSON object), next (JSON: step → JSON list of dependents), data of job.submitted,
--       id of this call
-- → {"ok", {{step, kind, ticket}, …}} | {"exists"}
if known() then return repeated(ARGV[4]) or reply('exists') end
for field, value in pairs(cjson.decode(ARGV[1])) do redis.call('HSET', JOB, field, value) end
redis.call('HSET', JOB, 'attempt', 1, 'created_ms', NOW)
for step, dependents in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', key('next'), step, dependents) end
redis.call('ZADD', JOBS, NOW, JOB_ID)
emit('job.submitted', nil, ARGV[3])
return remember(ARGV[4], reply('ok', begin()))
