-- Removes blobs. KEYS: the sizes, the ends, the sum, then the blobs. ARGV: their names. Returns how many were there.
local num_removed, freed = 0, 0
for i, name in ipairs(ARGV) do
  redis.call('DEL', KEYS[3 + i])
  local size = redis.call('HGET', KEYS[1], name)
  if size then
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
    num_removed, freed = num_removed + 1, freed + size
  end
end
if freed > 0 then
  redis.call('SET', KEYS[3], string.format('%.0f', (redis.call('GET', KEYS[3]) or 0) - freed))
end
return num_removed
