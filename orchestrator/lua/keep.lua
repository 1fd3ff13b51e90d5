-- Keep a completion in the fleet's cache for its time to live, and no more in all than fits: the oldest go first.
-- ARGV: cache key, entry (JSON), ms to live, bytes that all entries may have together
-- → {"ok"} | {"too large"} for the cache as a whole
local name, entry, ttl, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function forget(old)
  redis.call('DEL', CACHE .. old)
  redis.call('ZREM', CACHED, old)
  redis.call('DECRBY', CACHED_BYTES, redis.call('HGET', CACHED_SIZES, old) or '0')
  redis.call('HDEL', CACHED_SIZES, old)
end

if #entry > most then return reply('too large') end
forget(name)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', CACHED, '-inf', NOW, 'LIMIT', 0, 100)) do forget(old) end
local bytes = redis.call('INCRBY', CACHED_BYTES, #entry)
while bytes > most do
  local oldest = redis.call('ZRANGE', CACHED, 0, 0)[1]
  if not oldest then -- a Redis that evicts keys has lost count
    redis.call('SET', CACHED_BYTES, #entry)
    break
  end
  forget(oldest)
  bytes = tonumber(redis.call('GET', CACHED_BYTES))
end
redis.call('SET', CACHE .. name, entry, 'PX', ttl)
redis.call('ZADD', CACHED, NOW + ttl, name)
redis.call('HSET', CACHED_SIZES, name, #entry)
return reply('ok')
