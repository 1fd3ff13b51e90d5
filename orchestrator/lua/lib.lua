-- Put before every script: the job's keys, clock, records and events, and the moves that several scripts make.
--
-- KEYS[1] is the job's hash. Its other keys are that one with a suffix; all share a hash tag, so one slot.
-- Time is Redis's own. Every script is atomic: state and the events that tell of it change together or not at all.

local JOB = KEYS[1]
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local SUFFIXES = { 'steps', 'next', 'results', 'files', 'blobs', 'leases', 'ready', 'active', 'open', 'events' }

local function key(suffix) return JOB .. ':' .. suffix end
local function known() return redis.call('EXISTS', JOB) == 1 end
local function job(field) return redis.call('HGET', JOB, field) end

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

local function alive()
  local status = job('status')
  return (status == 'queued' or status == 'running') and not job('failures')
end

local function expire_all(seconds)
  redis.call('EXPIRE', JOB, seconds)
  for _, suffix in ipairs(SUFFIXES) do redis.call('EXPIRE', key(suffix), seconds) end
end

local function finish(status, data, level)
  for _, id in ipairs(redis.call('SMEMBERS', key('open'))) do
    local record = load(id)
    if record.status == 'queued' or record.status == 'running' then
      record.status, record.token = status == 'cancelled' and 'cancelled' or 'pending', nil
      save(id, record)
    end
  end
  redis.call('HSET', JOB, 'status', status, 'finished_ms', NOW)
  redis.call('DEL', key('ready'), key('active'), key('leases'))
  emit('job.' .. status, nil, data, level)
  expire_all(job('ttl_s'))
end

-- A step whose needs are met: its message is on its way in a canvas, or it waits for a place among the active.
local function make_ready(step, record)
  if job('driver') == 'canvas' then
    record.status = 'queued'
    emit('step.queued', step)
  else
    redis.call('RPUSH', key('ready'), step)
  end
  save(step, record)
end

-- Driver "ready": give free places to waiting steps. Returns what the caller must send: {{step, kind, ticket}, …}.
local function dispatch()
  local sent = {}
  if job('driver') == 'canvas' or not alive() then return sent end
  local places = tonumber(job('concurrency')) - redis.call('SCARD', key('active'))
  while places > 0 do
    local step = redis.call('LPOP', key('ready'))
    if not step then break end
    local record = load(step)
    record.status = 'queued'
    record.ticket = record.ticket + 1
    save(step, record)
    redis.call('SADD', key('active'), step)
    emit('step.queued', step)
    sent[#sent + 1] = { step, record.kind, record.ticket }
    places = places - 1
  end
  return sent
end

-- Begin an attempt: steps that are done stay done, all others wait for their needs; old tickets and tokens are void.
-- Returns what the caller must send: for a canvas every open step, else those that got a place.
local function begin()
  local plan = cjson.decode(job('plan'))
  local canvas = job('driver') == 'canvas'
  local records, sent = {}, {}
  redis.call('DEL', key('ready'), key('active'), key('leases'), key('open'))
  for _, step in ipairs(plan) do
    records[step[1]] = load(step[1]) or { kind = step[2], status = 'pending', ticket = 0, runs = 0 }
  end
  for _, step in ipairs(plan) do
    local id, kind, needs = step[1], step[2], step[3]
    local record = records[id]
    if record.status == 'succeeded' then
      emit('step.skipped', id, { reason = 'already done' })
    else
      record.status, record.token, record.sent, record.unmet = 'pending', nil, nil, 0
      for _, need in ipairs(needs) do
        if records[need].status ~= 'succeeded' then record.unmet = record.unmet + 1 end
      end
      redis.call('SADD', key('open'), id)
      if canvas then
        record.ticket = record.ticket + 1
        sent[#sent + 1] = { id, kind, record.ticket }
      end
      if record.unmet == 0 then make_ready(id, record) else save(id, record) end
    end
  end
  if not canvas then sent = dispatch() end
  return sent
end

-- A call that begins or ends an attempt leaves its id and its answer: made again, since its reply was lost, it changes
-- nothing and gets the same answer.
local function repeated(call) return job('call') == call and job('answer') end
local function remember(call, answer)
  redis.call('HSET', JOB, 'call', call, 'answer', answer)
  return answer
end

-- A reply is one JSON text: {verdict, list}. cjson writes an empty list as {}, so that case is spelled out.
local function reply(verdict, list)
  if not list or #list == 0 then return '["' .. verdict .. '",[]]' end
  return cjson.encode({ verdict, list })
end
