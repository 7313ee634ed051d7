-- Takes a blob if it fits into the budget. A server that is over its memory limit refuses the first write, and so all.
-- KEYS: the blob, the sizes, the ends, the sum. ARGV: name, data, milliseconds to keep, budget in bytes.
-- Returns 1, or 0 where there is no room.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local used = tonumber(redis.call('GET', KEYS[4]) or 0) - tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) + #ARGV[2]
if used > tonumber(ARGV[4]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], #ARGV[2])
redis.call('ZADD', KEYS[3], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('SET', KEYS[4], string.format('%.0f', used))
return 1
