-- Create a job and begin its first attempt. A job id that exists is refused, so a repeated call creates nothing.
-- KEYS[2] index of jobs
-- ARGV: job id, fields of the job's hash (JSON object), next (JSON: step → list of dependents), data of job.submitted, id of this call
-- → {"ok", {{step, kind, ticket}, …}} | {"exists"}
if known() then return repeated(ARGV[5]) or reply('exists') end
for field, value in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', JOB, field, value) end
redis.call('HSET', JOB, 'status', 'queued', 'attempt', 1, 'created_ms', NOW)
for step, dependents in pairs(cjson.decode(ARGV[3])) do redis.call('HSET', key('next'), step, dependents) end
redis.call('ZADD', KEYS[2], NOW, ARGV[1])
emit('job.submitted', nil, ARGV[4])
return remember(ARGV[5], reply('ok', begin()))
