-- Keeps a worker's record and its jobs' leases and progress.
-- ARGV: worker, record, lease, then id, attempt, step, num_steps and is_renewed of each job it holds.
-- Returns {cancelled ids, expired ids, lost ids, {id, how closely it is watched, ...} of the watched ones}.
local now = now_ms()
local cancelled, expired, lost, watched = {}, {}, {}, {}
redis.call('ZREM', WORKERS, ARGV[1])
redis.call('ZADD', WORKERS, now, ARGV[1])
redis.call('HSET', WORKER_RECORDS, ARGV[1], ARGV[2])
for i = 4, #ARGV, 5 do
  local id, attempt = ARGV[i], ARGV[i + 1]
  local job_key = KEYS[NUM_SHARED_KEYS + (i + 1) / 5]
  local job = redis.call('HMGET', job_key, 'state', 'attempt', 'cancel', 'deadline', 'watched')
  if job[2] ~= attempt then
    lost[#lost + 1] = id
  elseif job[1] == 'cancelled' then
    cancelled[#cancelled + 1] = id
  elseif job[1] == 'expired' then
    expired[#expired + 1] = id
  elseif job[1] ~= 'running' then
    lost[#lost + 1] = id
  else
    redis.call('HSET', job_key, 'step', ARGV[i + 2], 'num_steps', ARGV[i + 3])
    if ARGV[i + 4] == '1' then
      redis.call('ZADD', LEASES, now + ARGV[3], id)
    end
    if job[5] then
      watched[#watched + 1] = id
      watched[#watched + 1] = job[5]
    end
    if job[3] then
      cancelled[#cancelled + 1] = id
    elseif tonumber(job[4]) <= now then
      expired[#expired + 1] = id
    end
  end
end
return {cancelled, expired, lost, watched}
