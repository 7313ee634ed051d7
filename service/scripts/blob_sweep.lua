-- Gives back the room of blobs whose time is over; the server has removed them by itself, or does so now.
-- KEYS: the sizes, the ends, the sum. ARGV: at most how many. Returns how many.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local names = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])
local freed = 0
for _, name in ipairs(names) do
  freed = freed + (redis.call('HGET', KEYS[1], name) or 0)
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
if freed > 0 then
  redis.call('SET', KEYS[3], string.format('%.0f', (redis.call('GET', KEYS[3]) or 0) - freed))
end
return #names
