-- Puts right what time has changed about the declared jobs: leases and deadlines run out, retries fall due.
-- ARGV: result_ttl, max_attempts, retry_delay, failed, cancelled, expired_waiting, expired_running,
-- max_dead_letters, then id and inbox key of each job. Returns counts {requeued, failed, expired, cancelled, promoted}.
local ends = {
  result_ttl = ARGV[1],
  max_attempts = tonumber(ARGV[2]),
  retry_delay = ARGV[3],
  failed = ARGV[4],
  cancelled = ARGV[5],
  max_dead_letters = ARGV[8],
}
local expired_waiting, expired_running = ARGV[6], ARGV[7]
local now = now_ms()
local counts = {requeued = 0, failed = 0, expired = 0, cancelled = 0, promoted = 0}

local function count(outcome)
  counts[outcome] = counts[outcome] + 1
end

local function forget(id)
  for _, set in ipairs({QUEUE, WAITING, DELAYED, RUNNING, LEASES, DEADLINES}) do
    redis.call('ZREM', set, id)
  end
  redis.call('HDEL', INBOXES, id)
end

local function reap_running(id, job_key, inbox_key, deadline)
  local lease = redis.call('ZSCORE', LEASES, id)
  if deadline <= now then
    end_job(id, job_key, inbox_key, now, 'expired', expired_running, ends.result_ttl)
    count('expired')
  elseif not lease or tonumber(lease) <= now then
    count(lose_attempt(id, job_key, inbox_key, now, ends))
  elseif not redis.call('ZSCORE', RUNNING, id) then
    redis.call('ZREM', RUNNING, id)
    redis.call('ZADD', RUNNING, now, id)
  end
end

local function reap_waiting(id, job_key, inbox_key, deadline)
  if deadline <= now then
    end_job(id, job_key, inbox_key, now, 'expired', expired_waiting, ends.result_ttl)
    count('expired')
    return
  end
  local due = redis.call('ZSCORE', DELAYED, id)
  if (due and tonumber(due) <= now) or not (due or redis.call('ZSCORE', QUEUE, id)) then
    redis.call('ZREM', DELAYED, id)
    local job = redis.call('HMGET', job_key, 'order', 'priority')
    enqueue_in_front(id, tonumber(job[1]), job[2])
    count('promoted')
  end
  if not redis.call('ZSCORE', WAITING, id) then
    local job = redis.call('HMGET', job_key, 'created', 'cost')
    redis.call('ZREM', WAITING, id)
    enter_waiting(id, job[1], job[2])
  end
end

for i = 9, #ARGV, 2 do
  local id, inbox_key = ARGV[i], ARGV[i + 1]
  local job_key = KEYS[NUM_SHARED_KEYS + (i - 7) / 2]
  local job = redis.call('HMGET', job_key, 'state', 'deadline')
  if job[1] == 'running' then
    reap_running(id, job_key, inbox_key, tonumber(job[2]))
  elseif job[1] == 'queued' then
    reap_waiting(id, job_key, inbox_key, tonumber(job[2]))
  else
    forget(id)
  end
end
return {counts.requeued, counts.failed, counts.expired, counts.cancelled, counts.promoted}
