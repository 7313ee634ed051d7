-- The ids at the head of the queue, each with the name of its inbox. ARGV: count. Returns {id, inbox, ...}.
local ids = redis.call('ZRANGE', QUEUE, 0, ARGV[1] - 1)
if #ids == 0 then
  return ids
end
local inboxes = redis.call('HMGET', INBOXES, unpack(ids))
local reply = {}
for i, id in ipairs(ids) do
  reply[2 * i - 1] = id
  reply[2 * i] = inboxes[i] or ''
end
return reply
