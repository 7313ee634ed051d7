-- Ends a waiting job; asks the worker of a running one to stop. ARGV: id, owner, cancelled, inbox key, result_ttl.
-- Returns the job's fields {name, value, ...}, none if the owner has no such job.
local id = ARGV[1]
local job_key = KEYS[NUM_SHARED_KEYS + 1]
local job = redis.call('HMGET', job_key, 'state', 'owner')
if job[2] ~= ARGV[2] then
  return {}
end
if job[1] == 'queued' then
  end_job(id, job_key, ARGV[4], now_ms(), 'cancelled', ARGV[3], ARGV[5])
elseif job[1] == 'running' then
  redis.call('HDEL', job_key, 'cancel')
  redis.call('HSET', job_key, 'cancel', 1)
end
return redis.call('HGETALL', job_key)
