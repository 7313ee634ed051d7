-- Somebody watches a job from now on, or stops. ARGV: owner, level (0: stops). KEYS: the job.
-- Returns how many watch it now; -1 if the owner has no such job.
local job_key = KEYS[NUM_SHARED_KEYS + 1]
local job = redis.call('HMGET', job_key, 'owner', 'watched', 'num_watchers')
if job[1] ~= ARGV[1] then
  return -1
end
local level = tonumber(ARGV[2])
if level == 0 then
  return redis.call('HINCRBY', job_key, 'num_watchers', -1)
end
if level > tonumber(job[2] or 0) then
  redis.call('HSET', job_key, 'watched', level)
end
return redis.call('HINCRBY', job_key, 'num_watchers', 1)
