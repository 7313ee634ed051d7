-- Put before every script: the names of the keys, the server's clock, and the moves that a job can make.
-- KEYS are the shared keys of service/keys.py, then the hashes of the jobs at hand, then their inboxes.
-- Times are whole milliseconds and costs whole thousandths of a megapixel-step, since Lua keeps integers exact.
-- When the server is over its memory limit it lets a script go on only if its first write is a removal: so every
-- script but submit and requeue begins with one.
local QUEUE, WAITING, DELAYED, RUNNING, LEASES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DEADLINES, INBOXES, FINISH_TAGS, TENANT_JOBS, TOTALS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local WAKE, ALONE, WORKERS, WORKER_RECORDS = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local DEAD, DEAD_LETTERS = KEYS[15], KEYS[16]
local NUM_SHARED_KEYS = 16
local CLASS_SPAN = 2 ^ 51 -- scores of one priority class; a double holds the integers of all three exactly
local MAX_WAKE_TOKENS = 64
local MAX_INBOX_EVENTS = 4096
-- Where gateways hear which watched jobs have news. A channel and not a key: it is only a hint to look again.
local NEWS = string.sub(QUEUE, 1, -#'queue' - 1) .. 'news'

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Virtual time of a priority class: the start tag of the job handed out last.
local function virtual_time(priority)
  return tonumber(redis.call('HGET', TOTALS, 'virtual_time:' .. priority) or priority * CLASS_SPAN)
end

local function enter_waiting(id, created, cost)
  if redis.call('ZADD', WAITING, created, id) == 1 then
    redis.call('HINCRBY', TOTALS, 'waiting_cost', cost)
  end
end

local function leave_waiting(id, cost)
  redis.call('ZREM', QUEUE, id)
  redis.call('ZREM', DELAYED, id)
  if redis.call('ZREM', WAITING, id) == 1 then
    redis.call('HINCRBY', TOTALS, 'waiting_cost', -cost)
  end
end

-- Tell whoever watches this job, if anybody does, that there is something to see.
local function announce(id, job_key)
  if redis.call('HEXISTS', job_key, 'watched') == 1 then
    redis.call('PUBLISH', NEWS, id)
  end
end

-- A tenant, within a priority class. Its waiting jobs stand in TENANT_JOBS under its name in the order of their tags.
local function tenant_of(priority, owner)
  return priority .. '\0' .. owner .. '\0'
end

local function tenant_job(tenant, order)
  return tenant .. string.format('%016.0f', order)
end

local function leave_running(id, worker)
  redis.call('ZREM', LEASES, id)
  redis.call('ZREM', RUNNING, id)
  if worker and redis.call('HGET', ALONE, worker) == id then
    redis.call('HDEL', ALONE, worker)
  end
end

-- Whoever is woken is told whom for, and the job's inbox, so that it need not look first.
local function enqueue(id, order)
  redis.call('ZADD', QUEUE, order, id)
  redis.call('LPUSH', WAKE, id .. ' ' .. (redis.call('HGET', INBOXES, id) or ''))
  redis.call('LTRIM', WAKE, 0, MAX_WAKE_TOKENS - 1)
end

-- Back to the front of its class: at its old place, or at the class's present time if that is earlier.
local function enqueue_in_front(id, order, priority)
  enqueue(id, math.min(order, virtual_time(priority)))
end

-- The one way for a job to end: out of every set, result written, one event.
local function end_job(id, job_key, inbox_key, now, state, result, result_ttl)
  redis.call('ZREM', DEADLINES, id)
  redis.call('HDEL', INBOXES, id)
  local job = redis.call('HMGET', job_key, 'cost', 'worker', 'attempt', 'priority', 'owner', 'order')
  leave_waiting(id, job[1])
  leave_running(id, job[2])
  if job[3] == '0' then
    -- Never handed out: the tenant gets back what it was charged.
    local tenant = tenant_of(job[4], job[5])
    redis.call('ZREM', TENANT_JOBS, tenant_job(tenant, job[6]))
    local tag = redis.call('ZSCORE', FINISH_TAGS, tenant)
    if tag then
      redis.call('ZADD', FINISH_TAGS, tag - job[1], tenant)
    end
  end
  redis.call('HSET', job_key, 'state', state, 'result', result, 'finished', now)
  redis.call('PEXPIRE', job_key, result_ttl)
  if inbox_key ~= '' then
    redis.call('XADD', inbox_key, 'MAXLEN', '~', MAX_INBOX_EVENTS, '*', 'job', id)
    redis.call('PEXPIRE', inbox_key, result_ttl)
  end
  announce(id, job_key)
end

-- A job that has failed for good stays behind as it is now, beyond its own time to live, among the last so many.
local function bury(id, job_key, now, max_dead_letters)
  redis.call('ZADD', DEAD, now, id)
  redis.call('HSET', DEAD_LETTERS, id, cjson.encode(redis.call('HGETALL', job_key)))
  for _, oldest in ipairs(redis.call('ZRANGE', DEAD, 0, -max_dead_letters - 1)) do
    redis.call('ZREM', DEAD, oldest)
    redis.call('HDEL', DEAD_LETTERS, oldest)
  end
end

-- A running job's attempt failed or was lost: what becomes of it now. `ends` has result_ttl, max_attempts,
-- retry_delay, max_dead_letters and the results failed and cancelled. Returns 'requeued', 'failed' or 'cancelled'.
local function lose_attempt(id, job_key, inbox_key, now, ends)
  local job = redis.call('HMGET', job_key, 'failures', 'cancel', 'created', 'cost', 'worker')
  local failures = job[1] + 1
  if job[2] then
    end_job(id, job_key, inbox_key, now, 'cancelled', ends.cancelled, ends.result_ttl)
    return 'cancelled'
  end
  leave_running(id, job[5])
  redis.call('HSET', job_key, 'failures', failures)
  if failures >= ends.max_attempts then
    end_job(id, job_key, inbox_key, now, 'failed', ends.failed, ends.result_ttl)
    bury(id, job_key, now, ends.max_dead_letters)
    return 'failed'
  end
  redis.call('HSET', job_key, 'state', 'queued', 'step', 0)
  enter_waiting(id, job[3], job[4])
  redis.call('ZADD', DELAYED, now + ends.retry_delay, id)
  announce(id, job_key)
  return 'requeued'
end

