-- The ids at the head of the queue, each with the name of its inbox. ARGV: count. Returns {id, inbox, ...}.
local reply = {}
for _, id in ipairs(redis.call('ZRANGE', QUEUE, 0, ARGV[1] - 1)) do
  reply[#reply + 1] = id
  reply[#reply + 1] = redis.call('HGET', INBOXES, id) or ''
end
return reply
