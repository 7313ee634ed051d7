-- A worker that stops gives a job back unharmed: to the front, no attempt used up.
-- ARGV: id, attempt, cancelled, inbox key, result_ttl.
-- Returns 1, also where the attempt had been given back before; 0 if it no longer counts.
local id, attempt = ARGV[1], ARGV[2]
local job_key = KEYS[NUM_SHARED_KEYS + 1]
local job = redis.call('HMGET', job_key, 'state', 'attempt', 'cancel', 'worker', 'created', 'cost', 'order', 'priority')
if job[2] ~= attempt then
  return 0
end
if job[1] ~= 'running' then
  return (job[1] == 'queued') and 1 or 0
end
leave_running(id, job[4])
if job[3] then
  end_job(id, job_key, ARGV[4], now_ms(), 'cancelled', ARGV[3], ARGV[5])
  return 1
end
redis.call('HSET', job_key, 'state', 'queued', 'step', 0)
enter_waiting(id, job[5], job[6])
enqueue_in_front(id, tonumber(job[7]), job[8])
return 1
