-- Accepts a job, unless it was accepted before or the queue is full.
-- KEYS: the job's hash, its owner's jobs, and the record of the client's own key where there is one.
-- ARGV: id, job, owner, inbox, priority, cost, rows, timeout, num_steps, capacity, valid_until, watch_level, result_ttl,
-- fingerprint, gone, idempotency_ttl. `gone` is a job that the caller has looked for and not found: the key may name another now.
-- Returns {1 new | 0 known | -1 full, position or number of waiting jobs, waiting_cost}; {-2} if it comes too late: its
-- caller has given up and been told so; {-3} if the key was used for something else; {-4, id} if for another job.
local id, job, owner, inbox = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local priority, cost = ARGV[5], tonumber(ARGV[6])
local job_key, owner_jobs, key_record = KEYS[NUM_SHARED_KEYS + 1], KEYS[NUM_SHARED_KEYS + 2], KEYS[NUM_SHARED_KEYS + 3]
local MAX_OWNER_JOBS = 1000

if redis.call('EXISTS', job_key) == 1 then
  return {0, redis.call('ZRANK', QUEUE, id) or 0, 0}
end
if key_record then
  local known = redis.call('HMGET', key_record, 'fingerprint', 'job')
  if known[1] and known[1] ~= ARGV[14] then
    return {-3}
  end
  if known[2] and known[2] ~= ARGV[15] then
    return {-4, known[2]}
  end
end
local now = now_ms()
if now > tonumber(ARGV[11]) then
  return {-2}
end
local num_waiting = redis.call('ZCARD', WAITING)
if num_waiting >= tonumber(ARGV[10]) then
  return {-1, num_waiting, tonumber(redis.call('HGET', TOTALS, 'waiting_cost') or 0)}
end

-- The first write, and no removal: this is the script that a full server must refuse.
redis.call('HSET', job_key, 'job', job, 'owner', owner, 'state', 'queued', 'attempt', 0, 'failures', 0,
  'priority', priority, 'cost', cost, 'rows', ARGV[7], 'step', 0, 'num_steps', ARGV[9],
  'created', now, 'deadline', now + ARGV[8])
if ARGV[12] ~= '0' then
  redis.call('HSET', job_key, 'watched', ARGV[12])
end
if num_waiting == 0 then
  redis.call('DEL', TENANT_JOBS, TOTALS)
end
local first, last = priority * CLASS_SPAN, (priority + 1) * CLASS_SPAN - 1
if redis.call('ZCOUNT', QUEUE, first, last) == 0 then
  -- Where nobody waits nobody is owed anything; starting again from zero keeps the tags few and small.
  redis.call('HDEL', TOTALS, 'virtual_time:' .. priority)
  redis.call('ZREMRANGEBYSCORE', FINISH_TAGS, first, last)
end

-- Start-time fair queueing: a tenant's job starts where its last one finished, but not in the past, and (where that
-- was given back) not before the last of its own that still waits.
local tenant = tenant_of(priority, owner)
local order = math.max(virtual_time(priority), tonumber(redis.call('ZSCORE', FINISH_TAGS, tenant) or 0))
local last_job = redis.call('ZREVRANGEBYLEX', TENANT_JOBS, '(' .. tenant .. '\255', '[' .. tenant, 'LIMIT', 0, 1)[1]
if last_job then
  order = math.max(order, tonumber(string.sub(last_job, #tenant + 1)) + 1)
end
redis.call('HSET', job_key, 'order', order)
redis.call('ZADD', FINISH_TAGS, order + cost, tenant)
redis.call('ZADD', TENANT_JOBS, 0, tenant_job(tenant, order))

redis.call('ZADD', DEADLINES, now + ARGV[8], id)
if inbox ~= '' then
  redis.call('HSET', INBOXES, id, inbox)
end

redis.call('ZADD', owner_jobs, now, id)
redis.call('ZREMRANGEBYRANK', owner_jobs, 0, -MAX_OWNER_JOBS - 1)
local listed_ms = ARGV[8] + ARGV[13] -- as long as this job can be read at most
if redis.call('PTTL', owner_jobs) < listed_ms then
  redis.call('PEXPIRE', owner_jobs, string.format('%.0f', listed_ms))
end
if key_record then
  redis.call('HSET', key_record, 'fingerprint', ARGV[14], 'job', id)
  redis.call('PEXPIRE', key_record, ARGV[16])
end
enter_waiting(id, now, cost)
enqueue(id, order)
return {1, redis.call('ZRANK', QUEUE, id), 0}
