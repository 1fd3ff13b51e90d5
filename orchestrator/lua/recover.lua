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

local function worker_of(entry) return string.match(entry, '^%S*') end

if calm then
  local runs, company, silent = redis.call('HGETALL', HELD), {}, {}
  for i = 2, #runs, 2 do
    local worker = worker_of(runs[i])
    company[worker] = (company[worker] or 0) + 1
  end
  for _, step in ipairs(redis.call('ZRANGEBYSCORE', key('leases'), '-inf', NOW)) do
    local record, entry = load(step), redis.call('HGET', HELD, held(step)) or ''
    local worker = worker_of(entry)
    silent[worker] = true
    give_back(record.token)
    record.losses, record.token = record.losses + 1, nil
    emit('step.lost', step, { reason = 'its worker fell silent', losses = record.losses, worker = worker }, 'WARN')
    if record.alone and (company[worker] or 1) == 1 and not string.find(entry, ' beside ', 1, true) then
      local message = 'its worker died ' .. record.losses .. ' times with it, the last time with nothing else in it'
      local failure = cjson.encode({ step = step, kind = 'poison', message = message })
      fail(step, record, failure, cjson.encode({ kind = 'poison', message = message }))
    else
      again(step, record)
    end
  end
  -- What a silent worker still holds, of this job or another, did not run by itself, though it may be lost later.
  for i = 1, #runs, 2 do
    local worker = worker_of(runs[i + 1])
    if silent[worker] and runs[i + 1] == worker .. ' alone' and redis.call('HEXISTS', HELD, runs[i]) == 1 then
      redis.call('HSET', HELD, runs[i], worker .. ' beside alone')
    end
  end
end

for _, step in ipairs(redis.call('SMEMBERS', key('queued'))) do
  local record = load(step)
  local missing = gone(record)
  if missing and record.passed and NOW - record.passed > grace then
    emit('step.lost', step, { reason = 'its message is gone' }, 'WARN')
    again(step, record)
  elseif missing ~= (record.passed ~= nil) then
    record.passed = missing and NOW or nil
    save(step, record)
  end
end

for _, step in ipairs(redis.call('ZRANGEBYSCORE', key('parked'), '-inf', NOW)) do again(step, load(step)) end

local sent = dispatch()
settle()
return reply('ok', sent)
