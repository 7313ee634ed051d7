-- What a running job has to show: its step, and events for its stream, in order.
-- ARGV: id, attempt, step, max_events, keep, then kind and data of each event. KEYS: the job, its stream.
-- Returns 1; 0 if the attempt no longer counts.
local id, attempt = ARGV[1], ARGV[2]
local job_key, events_key = KEYS[NUM_SHARED_KEYS + 1], KEYS[NUM_SHARED_KEYS + 2]
local job = redis.call('HMGET', job_key, 'state', 'attempt')
if job[1] ~= 'running' or job[2] ~= attempt then
  return 0
end
redis.call('HSET', job_key, 'step', ARGV[3])
for i = 6, #ARGV, 2 do
  redis.call('XADD', events_key, 'MAXLEN', ARGV[4], '*', 'kind', ARGV[i], 'data', ARGV[i + 1])
end
redis.call('PEXPIRE', events_key, ARGV[5])
announce(id, job_key)
return 1
