-- Give a worker the right to run a step, or say why not. At most one token of a step is current at any time.
-- ARGV: step, ticket, token, lease in ms, worker, losses after which a step runs alone
-- → {"run", {retry, runs}}   token and lease are the caller's
--   {"alone", {retry, runs}} likewise, but workers died with this step: it must run in a process of its own
--   {"done"}           it succeeded before; let the canvas go on
--   {"void", {reason}} this message has no right to run the step
local step, ticket, token, lease, worker = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not known() then return reply('void', { 'unknown job' }) end
local record = load(step)
if not record then return reply('void', { 'unknown step' }) end
if record.status == 'succeeded' then return reply('done') end
if not alive() then return reply('void', { 'the job is over' }) end
if record.ticket ~= ticket then return reply('void', { 'old ticket' }) end
if record.unmet > 0 then return reply('void', { 'needs not met' }) end
if record.token == token then -- the reply to this very claim was lost
  return reply(record.alone and 'alone' or 'run', { record.retry or '', record.runs })
end
if record.status ~= 'queued' then return reply('void', { 'taken by another worker' }) end

-- Messages before this one have left the queue: recovery goes by it.
local seen = 'seen ' .. queue_of(record)
if record.order > tonumber(redis.call('HGET', TICKETS, seen) or '0') then
  redis.call('HSET', TICKETS, seen, record.order)
end
record.alone = record.losses >= tonumber(ARGV[6]) or nil
if record.alone then
  -- One at a time in the whole fleet: when a worker dies with such a step, it must be clear which one is to blame.
  for _, other in ipairs(redis.call('HVALS', HELD)) do
    if string.sub(other, -6) == ' alone' then
      park(step, record, 1000)
      return reply('void', { 'another step runs alone' })
    end
  end
end
record.status, record.token, record.runs, record.passed = 'running', token, record.runs + 1, nil
save(step, record)
redis.call('SREM', key('queued'), step)
redis.call('ZADD', key('leases'), NOW + lease, step)
redis.call('HSET', HELD, held(step), record.alone and worker .. ' alone' or worker)
if job('status') == 'queued' then
  redis.call('HSET', JOB, 'status', 'running')
  emit('job.started', nil, { attempt = tonumber(job('attempt')) })
end
emit('step.started', step, {
  kind = record.kind, attempt = tonumber(job('attempt')), runs = record.runs, worker = worker,
})
return reply(record.alone and 'alone' or 'run', { record.retry or '', record.runs })
