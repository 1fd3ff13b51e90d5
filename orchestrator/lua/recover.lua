-- Make good what died with a worker or got lost on its way, for one job; the leader calls it about twice a second.
-- Other messages and running steps of the job are left alone.
--   a lease that ran out    the step is lost and dispatched again; it fails if it was all that its worker ran, and
--                           was run so because two workers had died with it before
--   a message that is gone  the queue has passed it, or is empty, and it stayed unclaimed for longer than the grace
--   a parked step           is dispatched when it is due
--   a job past its deadline fails
-- ARGV: "calm" if leases may be acted on, grace in ms
-- → {"ok", {{step, kind, ticket}, …}} the caller sends these | {"over"}
local calm, grace = ARGV[1] == 'calm', tonumber(ARGV[2])
if not known() then redis.call('SREM', ALIVE, JOB_ID) return reply('over') end
if not unfinished() then redis.call('SREM', ALIVE, JOB_ID) return reply('over') end

if NOW > tonumber(job('deadline_ms')) then
  local seconds = tonumber(job('timeout_ms')) / 1000
  local failures = cjson.decode(job('failures') or '[]')
  failures[#failures + 1] = {
    step = cjson.null, kind = 'timeout', message = 'the job did not end within its timeout_s of ' .. seconds .. ' s',
  }
  finish('failed', cjson.encode({ failures = failures }), 'ERROR')
  return reply('over')
end

if calm then
  local runs, company = redis.call('HGETALL', HELD), {}
  for i = 2, #runs, 2 do
    local worker = string.gsub(runs[i], ' alone$', '')
    company[worker] = (company[worker] or 0) + 1
  end
  for _, step in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', NOW)) do
    local record = load(step)
    local worker = string.gsub(redis.call('HGET', HELD, held(step)) or '', ' alone$', '')
    record.losses = record.losses + 1
    emit('step.lost', step, { reason = 'its worker fell silent', losses = record.losses, worker = worker }, 'WARN')
    if record.alone and (company[worker] or 1) == 1 then
      local message = 'its worker died ' .. record.losses .. ' times with it, the last time with nothing else in it'
      local failure = cjson.encode({ step = step, kind = 'poison', message = message })
      fail(step, record, failure, cjson.encode({ kind = 'poison', message = message }))
    else
      again(step, record)
    end
  end
end

local seen, waiting = tonumber(redis.call('HGET', TICKETS, 'seen') or '0'), redis.call('LLEN', QUEUE_LIST)
for _, step in ipairs(redis.call('SMEMBERS', key('queued'))) do
  local record = load(step)
  local gone = waiting == 0 or seen > record.order
  if gone and record.passed and NOW - record.passed > grace then
    emit('step.lost', step, { reason = 'its message is gone' }, 'WARN')
    again(step, record)
  elseif gone ~= (record.passed ~= nil) then
    record.passed = gone and NOW or nil
    save(step, record)
  end
end

for _, step in ipairs(redis.call('ZRANGEBYSCORE', key('parked'), '-inf', NOW)) do again(step, load(step)) end

local sent = dispatch()
settle()
return reply('ok', sent)
