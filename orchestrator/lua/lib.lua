-- Put before every script: the job's keys, clock, records and events, and the moves that several scripts make.
--
-- KEYS[1] is the job's hash. Its other keys are that one with a suffix; all share a hash tag, so one slot. The names
-- of the fleet's keys (ALIVE, TICKETS, SLOTS, STOPS, …) are put before this file from names.py.
-- Time is Redis's own. Every script is atomic: state and the events that tell of it change together or not at all.
--
-- A step's record: status (pending, queued, running, parked, expanded, succeeded, failed, cancelled), kind, ticket (the only
-- message that may claim it), order (its place in the queue), token (the only claim that may commit it), unmet (needs
-- that are not done), runs, losses (how often a worker died with it), alone (it must run in a process of its own),
-- queue (nil: the usual one), tries (how often it was parked), retry (JSON: how far the calls of its current question got), passed (since when its
-- message is gone), sent (what its commit dispatched), gate (JSON {result, about}: what is committed when the steps are
-- done that an expanded step has made way for).

local JOB = KEYS[1]
local JOB_ID = JOB and string.match(JOB, '{(.*)}')
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local SUFFIXES = {
  'steps', 'next', 'results', 'files', 'blobs', 'leases', 'queued', 'parked', 'ready', 'active', 'open', 'events',
  'reserved', 'answers', 'paid',
}

local SLOTS_OF_A_FLEET_UNSEEN = 32 -- what is taken for granted while no worker has said that it lives
local OVERTAKEN = 20

local function key(suffix) return JOB .. ':' .. suffix end
local function known() return redis.call('EXISTS', JOB) == 1 end
local function job(field) return redis.call('HGET', JOB, field) end

-- A reply is one JSON text: [verdict, list]. cjson writes an empty list as {}, so that case is spelled out.
local function reply(verdict, list)
  if not list or #list == 0 then return '["' .. verdict .. '",[]]' end
  return cjson.encode({ verdict, list })
end

-- A call that begins or ends an attempt leaves its id and its answer: made again, since its reply was lost, it changes
-- nothing and gets the same answer.
local function repeated(call) return job('call') == call and job('answer') end
local function remember(call, answer)
  redis.call('HSET', JOB, 'call', call, 'answer', answer)
  return answer
end

local function load(step)
  local record = redis.call('HGET', key('steps'), step)
  return record and cjson.decode(record)
end

local function save(step, record)
  redis.call('HSET', key('steps'), step, cjson.encode(record))
end

-- `data` is JSON text, or a table that is not an empty list, or nil.
local function emit(event, step, data, level)
  if type(data) == 'table' then data = cjson.encode(data) end
  redis.call('XADD', key('events'), '*', 'type', event, 'level', level or 'INFO', 'step', step or '', 'data', data or '')
end

local function unfinished()
  local status = job('status')
  return status == 'queued' or status == 'running'
end

-- Whether steps may still be started: a job with a failed step only waits for those that run.
local function alive() return unfinished() and not job('failures') end

local function expire_all(seconds)
  redis.call('EXPIRE', JOB, seconds)
  for _, suffix in ipairs(SUFFIXES) do redis.call('EXPIRE', key(suffix), seconds) end
end

local function held(step) return JOB_ID .. '/' .. step end

-- What a step holds of the fleet's belongs to its token, and is given back with it however the step ends: a call's
-- place among those that run ("slot"), its reservation of the budget ("budget"), the circuit's one probe ("probe"), and
-- the lead of those who ask the same ("flight"). An entry is {what, name, call}; that of an admitted call ("call") has the
-- reply to its admission for a name.
local function hold(token, what, name, call) redis.call('SADD', HOLDS .. token, cjson.encode({ what, name, call })) end

local function drop(token, entry)
  local what, name, call = unpack(cjson.decode(entry))
  if what == 'slot' then redis.call('ZREM', LIMIT .. name .. ':running', call) end
  if what == 'budget' then redis.call('HDEL', key('reserved'), call) end
  if what == 'probe' and redis.call('HGET', CIRCUIT .. name, 'probe') == call then redis.call('HDEL', CIRCUIT .. name, 'probe') end
  if what == 'flight' and redis.call('GET', FLIGHT .. name) == call then
    redis.call('DEL', FLIGHT .. name)
    for _, waiter in ipairs(redis.call('SMEMBERS', FLIGHT .. name .. ':waiters')) do -- those who are parked are due now
      local parked, other = string.match(waiter, '(%S+) (%S+)')
      redis.call('ZADD', parked, 'XX', NOW, other)
    end
    redis.call('DEL', FLIGHT .. name .. ':waiters')
  end
  redis.call('SREM', HOLDS .. token, entry)
end

local function give_back(token)
  for _, entry in ipairs(token and redis.call('SMEMBERS', HOLDS .. token) or {}) do drop(token, entry) end
end

-- Nothing runs any more: take all running steps' names off the fleet's books.
local function stop_running()
  for _, step in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    redis.call('HDEL', HELD, held(step))
    give_back(load(step).token)
  end
end

local function finish(status, data, level)
  stop_running()
  for _, id in ipairs(redis.call('SMEMBERS', key('open'))) do
    local record = load(id)
    if record.status == 'queued' or record.status == 'running' or record.status == 'parked' or record.status == 'expanded' then
      record.status, record.token = status == 'cancelled' and 'cancelled' or 'pending', nil
      save(id, record)
    end
  end
  redis.call('HSET', JOB, 'status', status, 'finished_ms', NOW)
  redis.call('DEL', key('ready'), key('active'), key('leases'), key('queued'), key('parked'))
  redis.call('SREM', ALIVE, JOB_ID)
  redis.call('INCR', STOPS)
  emit('job.' .. status, nil, data, level)
  expire_all(job('ttl_s'))
end

-- End the job if nothing of it is left to wait for.
local function settle()
  if not unfinished() then return end
  if job('failures') then
    if redis.call('ZCARD', key('leases')) == 0 then
      finish('failed', '{"failures":' .. job('failures') .. '}', 'ERROR')
    end
  elseif redis.call('SCARD', key('open')) == 0 then
    finish('succeeded')
  end
end

-- Take a step's name out of whatever it was in: everything that its last token held is given back.
local function leave(step, record)
  redis.call('HDEL', HELD, held(step))
  give_back(record.token)
  redis.call('ZREM', key('leases'), step)
  redis.call('ZREM', key('parked'), step)
  redis.call('SREM', key('queued'), step)
  redis.call('SREM', key('active'), step)
end

local function queue_of(record) return record.queue or QUEUE end

-- Count a step as on its way to a worker. In a canvas its message has its ticket already, else it gets a new one.
local function enqueue(step, record)
  record.status, record.token, record.passed = 'queued', nil, nil
  record.order = redis.call('HINCRBY', TICKETS, 'next ' .. queue_of(record), 1)
  redis.call('HSET', JOB, 'on_its_way_ms', NOW) -- when something of it was last on its way
  if job('driver') ~= 'canvas' then record.ticket = record.ticket + 1 end
  save(step, record)
  redis.call('SADD', key('queued'), step)
  redis.call('SADD', key('active'), step)
  emit('step.queued', step)
end

-- A step whose needs are met is sent by the canvas, or waits for a place among the active.
local function make_ready(step, record)
  record.status = 'pending'
  save(step, record)
  if job('driver') == 'canvas' then enqueue(step, record) else redis.call('RPUSH', key('ready'), step) end
end

-- How many more steps of the job may be active: its own concurrency, and its share of the fleet while others wait. A job
-- that is alone gets what keeps the fleet busy, and no more: who comes later stands behind all of it in the queue.
local function places()
  local slots, jobs = tonumber(redis.call('GET', SLOTS)) or SLOTS_OF_A_FLEET_UNSEEN, redis.call('SCARD', ALIVE)
  local share = jobs > 1 and math.max(1, math.ceil(slots / jobs)) or 2 * slots
  return math.min(tonumber(job('concurrency')), share) - redis.call('SCARD', key('active'))
end

-- Whether a queued step's message has left the queue: the queue is empty, or those far behind it were taken. A step gets
-- its order before its message is sent, so messages overtake each other, by about as many as there are senders.
local function gone(record)
  if redis.call('LLEN', QUEUES .. queue_of(record)) == 0 then return true end
  local slots = tonumber(redis.call('GET', SLOTS)) or SLOTS_OF_A_FLEET_UNSEEN
  return tonumber(redis.call('HGET', TICKETS, 'seen ' .. queue_of(record)) or '0') > record.order + OVERTAKEN + 2 * slots
end

-- Driver "ready": give free places to waiting steps. Returns what the caller must send: {{step, kind, ticket, queue}, …},
-- without the queue where it is the usual one.
local function dispatch()
  local sent = {}
  if job('driver') == 'canvas' or not alive() then return sent end
  for _ = 1, places() do
    local step = redis.call('LPOP', key('ready'))
    if not step then break end
    local record = load(step)
    enqueue(step, record)
    sent[#sent + 1] = { step, record.kind, record.ticket, record.queue }
  end
  return sent
end

-- Put a step that is not done back among the ready, first in line. Its job leaves its canvas for good: the canvas
-- would wait for a message that is gone; those that still come carry old tickets, or claim as before. A step that was
-- parked counts as that until it is sent, as its events tell it.
local function again(step, record)
  leave(step, record)
  redis.call('HSET', JOB, 'driver', 'ready')
  record.status, record.token = record.status == 'parked' and 'parked' or 'pending', nil
  save(step, record)
  if alive() then redis.call('LPUSH', key('ready'), step) end
end

-- Put a step aside until a number of ms has gone by; it holds no place meanwhile.
local function park(step, record, wait)
  leave(step, record)
  redis.call('HSET', JOB, 'driver', 'ready')
  record.status, record.token = 'parked', nil
  save(step, record)
  redis.call('ZADD', key('parked'), NOW + wait, step)
end

-- The answers to single calls of a step are of no use after its end.
local function forget_calls(step)
  for _, field in ipairs(redis.call('HKEYS', key('paid'))) do
    if string.sub(field, 1, #step + 1) == step .. ':' then redis.call('HDEL', key('paid'), field) end
  end
end

-- Record that a step failed. `failure` is JSON of {step, kind, message}, `data` that of its event.
local function fail(step, record, failure, data)
  forget_calls(step)
  local failures = cjson.decode(job('failures') or '[]')
  failures[#failures + 1] = cjson.decode(failure)
  redis.call('HSET', JOB, 'failures', cjson.encode(failures))
  leave(step, record)
  record.status = 'failed'
  save(step, record)
  emit('step.failed', step, data, 'ERROR')
end

-- A step that has made way for others ends with the last of them. Those that wait for it are next.
local function join(step, record)
  local gate = cjson.decode(record.gate)
  record.status, record.gate = 'succeeded', nil
  save(step, record)
  redis.call('HSET', key('results'), step, gate.result)
  redis.call('SREM', key('open'), step)
  emit('step.succeeded', step, gate.about)
end

-- A step is done: those that waited for it and for nothing else are ready, or done with it.
local function let_others_go_on(step)
  for _, id in ipairs(cjson.decode(redis.call('HGET', key('next'), step) or '[]')) do
    local dependent = load(id)
    if (dependent.status == 'pending' or dependent.status == 'expanded') and dependent.unmet > 0 then
      dependent.unmet = dependent.unmet - 1
      if dependent.unmet > 0 or not alive() then
        save(id, dependent)
      elseif dependent.status == 'expanded' then
        join(id, dependent)
        let_others_go_on(id)
      else
        make_ready(id, dependent)
      end
    end
  end
end

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then return true end
  end
  return false
end

-- Write down that a step waits for another.
local function follows(step, need)
  local following = cjson.decode(redis.call('HGET', key('next'), need) or '[]')
  if contains(following, step) then return end
  following[#following + 1] = step
  redis.call('HSET', key('next'), need, cjson.encode(following))
end

-- Add steps to the job's plan: {{id, kind, needs}, …}. They run where `step` ran; one that is there already is left as it
-- is. `gate` is a step that waits for all of them from now on; returns how many it waits for.
local function grow(step, additions, gate)
  local plan, records, waiting = cjson.decode(job('plan')), {}, 0
  local queue = load(step).queue
  for _, one in ipairs(additions) do
    local id, kind, needs = one[1], one[2], one[3]
    if not load(id) then
      records[#records + 1] = { id, { kind = kind, status = 'pending', ticket = 0, runs = 0, losses = 0, tries = 0, queue = queue } }
      plan[#plan + 1] = queue and { id, kind, needs, queue } or { id, kind, needs }
      save(id, records[#records][2])
    end
  end
  for _, one in ipairs(records) do
    local id, record = one[1], one[2]
    record.unmet = 0
    for _, entry in ipairs(additions) do
      for _, need in ipairs(entry[1] == id and entry[3] or {}) do
        if load(need).status ~= 'succeeded' then
          record.unmet = record.unmet + 1
          follows(id, need)
        end
      end
    end
    redis.call('SADD', key('open'), id)
  end
  if gate then
    for _, entry in ipairs(plan) do
      if entry[1] == gate then
        for _, one in ipairs(additions) do
          if load(one[1]).status ~= 'succeeded' then
            waiting = waiting + 1
            follows(gate, one[1])
          end
          if not contains(entry[3], one[1]) then entry[3][#entry[3] + 1] = one[1] end
        end
      end
    end
  end
  redis.call('HSET', JOB, 'plan', cjson.encode(plan), 'driver', 'ready')
  for _, one in ipairs(records) do
    if one[2].unmet == 0 and alive() then make_ready(one[1], one[2]) else save(one[1], one[2]) end
  end
  return waiting
end

-- Begin an attempt: steps that are done stay done, all others wait for their needs; old tickets and tokens are void.
-- Returns what the caller must send: for a canvas every open step, else those that got a place.
local function begin()
  local canvas = job('driver') == 'canvas'
  local records, sent = {}, {}
  stop_running()
  redis.call('DEL', key('ready'), key('active'), key('leases'), key('queued'), key('parked'), key('open'), key('reserved'), key('paid'))
  redis.call('HSET', JOB, 'status', 'queued', 'deadline_ms', NOW + tonumber(job('timeout_ms')))
  redis.call('SADD', ALIVE, JOB_ID)
  local plan = cjson.decode(job('plan'))
  for _, step in ipairs(plan) do
    records[step[1]] = load(step[1]) or { kind = step[2], status = 'pending', ticket = 0, runs = 0, losses = 0, tries = 0 }
  end
  for _, step in ipairs(plan) do
    local id, kind, needs = step[1], step[2], step[3]
    local record = records[id]
    record.queue = step[4]
    if record.status == 'succeeded' then
      emit('step.skipped', id, { reason = 'already done' })
    else
      record.status, record.token, record.sent, record.unmet, record.losses, record.tries = 'pending', nil, nil, 0, 0, 0
      record.retry, record.gate = nil, nil
      for _, need in ipairs(needs) do
        if records[need].status ~= 'succeeded' then record.unmet = record.unmet + 1 end
      end
      redis.call('SADD', key('open'), id)
      record.ticket = record.ticket + 1
      if canvas then sent[#sent + 1] = { id, kind, record.ticket, record.queue } end
      if record.unmet == 0 then make_ready(id, record) else save(id, record) end
    end
  end
  settle()
  if not canvas then sent = dispatch() end
  return sent
end
