-- Accepts a job once more that had failed for good: the same id and recipe, its whole time, attempts counted from none.
-- KEYS: the job's hash, its owner's jobs. ARGV: id, inbox, capacity, result_ttl.
-- Returns {1}; {0} if there is no such dead letter; {-1, number of waiting jobs, waiting_cost} if the queue is full.
-- The number of the attempt goes on from where it was: whoever may still hold an old one must stay fenced off.
local id, inbox = ARGV[1], ARGV[2]
local job_key, owner_jobs = KEYS[NUM_SHARED_KEYS + 1], KEYS[NUM_SHARED_KEYS + 2]

local letter = redis.call('HGET', DEAD_LETTERS, id)
local state = redis.call('HGET', job_key, 'state')
if not letter or (state and state ~= 'failed') then
  return {0}
end
local num_waiting = redis.call('ZCARD', WAITING)
if num_waiting >= tonumber(ARGV[3]) then
  return {-1, num_waiting, tonumber(redis.call('HGET', TOTALS, 'waiting_cost') or 0)}
end

local now = now_ms()
-- The first write, and no removal: a full server must refuse.
redis.call('HSET', job_key, unpack(cjson.decode(letter)))
redis.call('PERSIST', job_key)
local job = redis.call('HMGET', job_key, 'created', 'deadline', 'priority', 'owner', 'cost')
local timeout, priority, cost = job[2] - job[1], job[3], tonumber(job[5])
local tenant = tenant_of(priority, job[4])
local order = math.max(virtual_time(priority), tonumber(redis.call('ZSCORE', FINISH_TAGS, tenant) or 0))
redis.call('ZADD', FINISH_TAGS, order + cost, tenant)
redis.call('HDEL', job_key, 'result', 'finished', 'started', 'worker', 'cancel')
redis.call('HSET', job_key, 'state', 'queued', 'failures', 0, 'step', 0, 'order', order, 'created', now,
  'deadline', now + timeout, 'is_suspect', 1)
redis.call('HDEL', DEAD_LETTERS, id)
redis.call('ZREM', DEAD, id)

redis.call('ZADD', DEADLINES, now + timeout, id)
if inbox ~= '' then
  redis.call('HSET', INBOXES, id, inbox)
end
redis.call('ZADD', owner_jobs, now, id)
local listed_ms = timeout + ARGV[4]
if redis.call('PTTL', owner_jobs) < listed_ms then
  redis.call('PEXPIRE', owner_jobs, string.format('%.0f', listed_ms))
end
enter_waiting(id, now, cost)
enqueue(id, order)
announce(id, job_key)
return {1}
