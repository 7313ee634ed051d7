-- Charges a tenant for a job, once however often it is called, unless that would be more than it may have.
-- KEYS: usage, reserved. ARGV: job ("model/id"), pixels, microseconds that the rate takes to give its cost back,
-- max_jobs, max_queued_jobs, microseconds of burst (0: no rate), daily_pixels, valid_until,
-- then those of the tenant's jobs that are known to run.
-- A limit of 0 is none. A job that alone is more than the burst may come when all of the burst is there.
-- Returns {1 charged | -1 max_jobs | -2 max_queued_jobs | -3 rate | -4 daily_pixels | -5 it comes too late,
-- jobs, pixels, microseconds of the rate that are used up, milliseconds since 1970, milliseconds to wait (-3)},
-- and from the seventh on, where jobs or pixels are in the way, what is reserved: {job, since when, ...}.
local usage, reserved = KEYS[1], KEYS[2]
local job, pixels, increment = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_jobs, max_queued, burst, daily = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local US_PER_DAY = 86400 * 1000000
local KEEP_MS = 2 * 86400 * 1000 -- longer than a day's pixels count and than any job lasts

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms = math.floor(now / 1000)
local day = math.floor(now / US_PER_DAY)

local used = redis.call('HMGET', usage, 'given_back_at', 'day', 'pixels')
local given_back_at = math.max(tonumber(used[1] or 0), now)
local pixels_today = (tonumber(used[2] or 0) == day) and tonumber(used[3]) or 0
local num_jobs = redis.call('HLEN', reserved)

local function reply(outcome, wait_ms)
  return {outcome, num_jobs, pixels_today, given_back_at - now, now_ms, wait_ms or 0}
end

local function reply_with_reservations(outcome)
  local found = reply(outcome)
  local all = redis.call('HGETALL', reserved)
  for i = 1, #all, 2 do
    found[#found + 1] = all[i]
    found[#found + 1] = string.match(all[i + 1], '^%d+')
  end
  return found
end

if redis.call('HEXISTS', reserved, job) == 1 then
  return reply(1) -- the reply to an earlier call was lost
end
if now_ms > tonumber(ARGV[8]) then
  return reply(-5)
end
if max_jobs > 0 and num_jobs >= max_jobs then
  return reply_with_reservations(-1)
end
if max_queued > 0 then
  local num_queued = num_jobs
  for i = 9, #ARGV do
    num_queued = num_queued - redis.call('HEXISTS', reserved, ARGV[i])
  end
  if num_queued >= max_queued then
    return reply_with_reservations(-2)
  end
end
if daily > 0 and pixels_today + pixels > daily then
  return reply_with_reservations(-4)
end
if burst > 0 then
  local wait = math.min(given_back_at + increment - burst, given_back_at) - now
  if wait > 0 then
    return reply(-3, math.ceil(wait / 1000))
  end
  given_back_at = given_back_at + increment
end

num_jobs = num_jobs + 1
pixels_today = pixels_today + pixels
redis.call('HSET', usage, 'given_back_at', string.format('%.0f', given_back_at), 'day', day,
  'pixels', string.format('%.0f', pixels_today))
redis.call('HSET', reserved, job, string.format('%.0f %d %.0f %.0f', now_ms, day, pixels, increment))
redis.call('PEXPIRE', usage, KEEP_MS)
redis.call('PEXPIRE', reserved, KEEP_MS)
return reply(1)
