-- Begin a further attempt of a job that ended without success: what is done stays done. Two at once make one attempt.
-- ARGV: driver, fields to replace in the job's hash (JSON object), "force" to resume whatever the status is, id of this call
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"refused", {status}} | {"unknown"}
if not known() then return reply('unknown') end
if repeated(ARGV[4]) then return job('answer') end
local status = job('status')
if ARGV[3] ~= 'force' and status ~= 'failed' and status ~= 'cancelled' then return reply('refused', { status }) end
redis.call('PERSIST', JOB)
for _, suffix in ipairs(SUFFIXES) do redis.call('PERSIST', key(suffix)) end
redis.call('HDEL', JOB, 'failures', 'finished_ms')
for field, value in pairs(cjson.decode(ARGV[2])) do redis.call('HSET', JOB, field, value) end
redis.call('HSET', JOB, 'status', 'queued', 'driver', ARGV[1])
local attempt = redis.call('HINCRBY', JOB, 'attempt', 1)
emit('job.resumed', nil, { attempt = attempt, was = status })
local sent = begin()
if redis.call('SCARD', key('open')) == 0 then finish('succeeded') end
return remember(ARGV[4], reply('ok', sent))
