-- Hands jobs to a worker from the queue's head, as long as the head is one of the jobs whose keys were declared.
-- ARGV: worker, max_jobs, max_rows, is_idle, lease, result_ttl, expired, valid_until, then id and inbox key of each
-- declared job. Returns {1 if an undeclared job is next | 0, id, job, attempt, milliseconds to the deadline, how closely
-- it is watched, ...}, or {-2} if it comes too late: its caller has given up, and jobs handed to nobody would cost a
-- lease and an attempt each.
local worker, max_jobs, rows_left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local is_idle, lease, result_ttl, expired = ARGV[4] == '1', ARGV[5], ARGV[6], ARGV[7]
local reply = {0}

local now = now_ms()
if now > tonumber(ARGV[8]) then
  return {-2}
end
if is_idle then
  redis.call('HDEL', ALONE, worker)
elseif redis.call('HEXISTS', ALONE, worker) == 1 then
  return reply
end

local job_keys, inbox_keys = {}, {}
for i = 9, #ARGV, 2 do
  job_keys[ARGV[i]] = KEYS[NUM_SHARED_KEYS + (i - 7) / 2]
  inbox_keys[ARGV[i]] = ARGV[i + 1]
end

local num_claimed, is_stopped = 0, false
while not is_stopped and num_claimed < max_jobs and rows_left > 0 do
  local id = redis.call('ZRANGE', QUEUE, 0, 0)[1]
  if not id then
    redis.call('DEL', WAKE)
    break
  end
  local job_key = job_keys[id]
  if not job_key then
    reply[1] = 1
    break
  end
  local job = redis.call('HMGET', job_key, 'job', 'deadline', 'failures', 'rows', 'cost', 'priority', 'order', 'owner',
    'watched', 'is_suspect')
  local is_retried = job[3] ~= '0' or job[10]
  if not job[1] then
    redis.call('ZREM', QUEUE, id) -- its hash is gone; the reaper clears the rest
  elseif tonumber(job[2]) <= now then
    end_job(id, job_key, inbox_keys[id], now, 'expired', expired, result_ttl)
  elseif is_retried and (num_claimed > 0 or not is_idle) then
    is_stopped = true -- let the worker run dry: this job runs alone
  else
    leave_waiting(id, job[5])
    redis.call('ZADD', RUNNING, now, id)
    redis.call('ZADD', LEASES, now + lease, id)
    local attempt = redis.call('HINCRBY', job_key, 'attempt', 1)
    redis.call('HSET', job_key, 'state', 'running', 'worker', worker, 'started', now, 'step', 0)
    if is_retried then
      redis.call('HSET', ALONE, worker, id)
      is_stopped = true
    end
    local priority = job[6]
    local time = math.max(virtual_time(priority), tonumber(job[7]))
    redis.call('HSET', TOTALS, 'virtual_time:' .. priority, time)
    -- Tags in the past carry no debt.
    redis.call('ZREM', TENANT_JOBS, tenant_job(tenant_of(priority, job[8]), job[7]))
    redis.call('ZREMRANGEBYSCORE', FINISH_TAGS, priority * CLASS_SPAN, string.format('(%.0f', time))
    num_claimed = num_claimed + 1
    rows_left = rows_left - job[4]
    reply[#reply + 1] = id
    reply[#reply + 1] = job[1]
    reply[#reply + 1] = attempt
    reply[#reply + 1] = job[2] - now
    reply[#reply + 1] = job[9] or 0
    announce(id, job_key)
  end
end
return reply
