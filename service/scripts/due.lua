-- Which jobs the reaper must look at, each with the name of its inbox; forgets workers that fell silent and
-- dead letters past their time. ARGV: limit, worker_ttl, dead_letter_ttl. Returns {id, inbox, ...}.
local limit = ARGV[1]
local now = now_ms()

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', now - ARGV[2])) do
  redis.call('ZREM', WORKERS, worker)
  redis.call('HDEL', WORKER_RECORDS, worker)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEAD, '-inf', now - ARGV[3], 'LIMIT', 0, limit)) do
  redis.call('ZREM', DEAD, id)
  redis.call('HDEL', DEAD_LETTERS, id)
end

local reply, is_listed = {}, {}
local function list(ids)
  for _, id in ipairs(ids) do
    if not is_listed[id] and #reply < 2 * limit then
      is_listed[id] = true
      reply[#reply + 1] = id
      reply[#reply + 1] = redis.call('HGET', INBOXES, id) or ''
    end
  end
end

list(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, limit))
list(redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', now, 'LIMIT', 0, limit))
list(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, limit))
-- What no script leaves behind, but a lost piece of the server's data could. Comparing sets takes as long as they are,
-- for each process that reaps: so it is done only where their sizes tell that something is amiss.
if redis.call('ZCARD', RUNNING) ~= redis.call('ZCARD', LEASES) then
  list(redis.call('ZDIFF', 2, RUNNING, LEASES))
  list(redis.call('ZDIFF', 2, LEASES, RUNNING))
end
if redis.call('ZCARD', WAITING) ~= redis.call('ZCARD', QUEUE) + redis.call('ZCARD', DELAYED) then
  list(redis.call('ZDIFF', 3, WAITING, QUEUE, DELAYED))
  list(redis.call('ZDIFF', 2, QUEUE, WAITING))
end
return reply
