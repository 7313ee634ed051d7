-- An attempt failed: the job waits for its next one, or has failed for good.
-- ARGV: id, attempt, failed, cancelled, inbox key, result_ttl, max_attempts, retry_delay, max_dead_letters.
-- Returns 1, also where the attempt had been given back before; 0 if it no longer counts.
local id, attempt = ARGV[1], ARGV[2]
local job_key = KEYS[NUM_SHARED_KEYS + 1]
local job = redis.call('HMGET', job_key, 'state', 'attempt', 'result')
if job[2] ~= attempt then
  return 0
end
if job[1] ~= 'running' then
  return (job[1] == 'queued' or job[3] == ARGV[3]) and 1 or 0
end
lose_attempt(id, job_key, ARGV[5], now_ms(), {
  failed = ARGV[3],
  cancelled = ARGV[4],
  result_ttl = ARGV[6],
  max_attempts = tonumber(ARGV[7]),
  retry_delay = ARGV[8],
  max_dead_letters = ARGV[9],
})
return 1
