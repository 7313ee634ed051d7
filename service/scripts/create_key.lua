-- Stores a new key, unless its tenant has as many as allowed. Those that hold no more make room.
-- KEYS: api_keys, last_used, the tenant's keys. ARGV: id, record, until when it holds (ms, or +inf), max_keys.
-- Returns the ids that are in the way; none where the key is stored.
local api_keys, last_used, own = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, id in ipairs(redis.call('ZRANGE', own, 0, -1)) do
  if tonumber(redis.call('ZSCORE', own, id)) <= now or redis.call('HEXISTS', api_keys, id) == 0 then
    redis.call('ZREM', own, id)
    redis.call('HDEL', api_keys, id)
    redis.call('HDEL', last_used, id)
  end
end
local ids = redis.call('ZRANGE', own, 0, -1)
if #ids >= tonumber(ARGV[4]) then
  return ids
end
redis.call('HSET', api_keys, ARGV[1], ARGV[2])
redis.call('ZADD', own, ARGV[3], ARGV[1])
return {}
