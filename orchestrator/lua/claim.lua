-- Give a worker the right to run a step, or say why not. At most one token of a step is current at any time.
-- ARGV: step, ticket, token, lease in ms, worker
-- → {"run", {spec, results of the step's needs…}} : token and lease are the caller's
--   {"done"}                                       : succeeded before; let the canvas go on
--   {"void", {reason}}                             : this message has no right to run the step
local step, ticket, token, lease, worker = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not known() then return reply('void', { 'unknown job' }) end
local record = load(step)
if not record then return reply('void', { 'unknown step' }) end
if record.status == 'succeeded' then return reply('done') end
if not alive() then return reply('void', { 'the job is over' }) end
if record.ticket ~= ticket then return reply('void', { 'old ticket' }) end
if record.unmet > 0 then return reply('void', { 'needs not met' }) end
if record.token == token then return reply('run') end -- the reply to this very claim was lost
if record.status ~= 'queued' then return reply('void', { 'taken by another worker' }) end

record.status, record.token, record.runs = 'running', token, record.runs + 1
save(step, record)
redis.call('ZADD', key('leases'), NOW + lease, step)
if job('status') == 'queued' then
  redis.call('HSET', JOB, 'status', 'running')
  emit('job.started', nil, { attempt = tonumber(job('attempt')) })
end
emit('step.started', step, {
  kind = record.kind, attempt = tonumber(job('attempt')), runs = record.runs, worker = worker,
})
return reply('run')
