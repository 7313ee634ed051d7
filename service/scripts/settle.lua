-- Jobs have ended: what is done stays charged, for anything else its pixels are given back, and what never became a job
-- gives back its part of the rate too. Settles each job once, however often it is called.
-- KEYS: usage, reserved. ARGV: "model/id" and 'done', 'undone' or 'refused' of each. Returns how many it settled.
local usage, reserved = KEYS[1], KEYS[2]
local num_settled = 0

-- Less than nothing as a whole number: older servers write large ones with an exponent, and refuse "-0".
local function minus(digits)
  return string.format('%.0f', 0 - digits)
end

for i = 1, #ARGV, 2 do
  local reservation = redis.call('HGET', reserved, ARGV[i])
  if reservation then
    redis.call('HDEL', reserved, ARGV[i])
    num_settled = num_settled + 1
    local _, day, pixels, increment = string.match(reservation, '^(%d+) (%d+) (%d+) (%d+)$')
    if ARGV[i + 1] ~= 'done' and redis.call('HGET', usage, 'day') == day then
      redis.call('HINCRBY', usage, 'pixels', minus(pixels))
    end
    if ARGV[i + 1] == 'refused' and redis.call('HEXISTS', usage, 'given_back_at') == 1 then
      redis.call('HINCRBY', usage, 'given_back_at', minus(increment))
    end
  end
end
return num_settled
