-- Ends a running job with the result of one attempt. ARGV: id, attempt, state, result, inbox key, result_ttl,
-- max_dead_letters.
-- Returns 1, also where this very result was written before and its reply lost; 0 if the attempt no longer counts.
local id, attempt, state, result = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local job_key = KEYS[NUM_SHARED_KEYS + 1]
local job = redis.call('HMGET', job_key, 'state', 'attempt', 'result')
if job[2] ~= attempt then
  return 0
end
if job[1] ~= 'running' then
  return (job[3] == result) and 1 or 0
end
local now = now_ms()
end_job(id, job_key, ARGV[5], now, state, result, ARGV[6])
if state == 'failed' then
  bury(id, job_key, now, ARGV[7])
end
return 1
