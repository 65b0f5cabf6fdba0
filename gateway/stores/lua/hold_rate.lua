-- Rates, as core/gcra.py has them: a leaky bucket, and what was taken in each second of the last minute.
-- Kept as text, "level at second:taken second:taken ...".

local WINDOW_S, BURST_S = 60, 5

local function burst(amount) return math.max(1, amount / WINDOW_S * BURST_S) end

local function per_second(amount) return math.max(1, amount) / WINDOW_S end

local function load_rate(key, now)
  local rate = {level = 0, at = 0, taken = {}, sum = 0}
  local level, at, taken = (redis.call("GET", key) or ""):match("^(%S+) (%S+)(.*)$")
  if not level then return rate end
  rate.level, rate.at = tonumber(level), tonumber(at)
  local first, last = math.floor(now) - WINDOW_S, math.floor(now) + WINDOW_S
  for second, units in taken:gmatch("(%d+):(%d+)") do
    if tonumber(second) >= first and tonumber(second) <= last then
      rate.taken[tonumber(second)] = tonumber(units)
      rate.sum = rate.sum + tonumber(units)
    end
  end
  return rate
end

local function save_rate(key, rate, amount, now)
  if not rate.is_changed then return end
  local parts = {string.format("%.17g %.17g", rate.level, rate.at)}
  for second, units in pairs(rate.taken) do parts[#parts + 1] = string.format("%.0f:%.0f", second, units) end
  local kept_s = math.max(WINDOW_S + 1, rate.level / per_second(amount)) + 1
  redis.call("SET", key, table.concat(parts, " "), "PX", string.format("%.0f", kept_s * 1000))
end

local function level_of(rate, amount, now)
  if rate.at > now + WINDOW_S then return 0 end
  return math.max(0, rate.level - math.max(0, now - rate.at) * per_second(amount))
end

local function seconds_of(rate)
  local seconds = {}
  for second in pairs(rate.taken) do seconds[#seconds + 1] = second end
  table.sort(seconds)
  return seconds
end

local function window_wait(rate, room, now)
  local over, wait = rate.sum - room, 0
  if over <= 0 then return 0 end
  for _, second in ipairs(seconds_of(rate)) do
    if over <= 0 then break end
    over = over - rate.taken[second]
    wait = second + 1 + WINDOW_S - now
  end
  return wait
end

-- Seconds until so much may pass: 0 is now, -1 never.
local function rate_wait(rate, amount, quantity, now)
  if quantity > amount then return -1 end
  local over = level_of(rate, amount, now) + quantity - math.max(burst(amount), quantity)
  return math.max(0, over / per_second(amount), window_wait(rate, amount - quantity, now))
end

local function rate_add(rate, quantity, now)
  local second = math.floor(now)
  rate.is_changed = true
  rate.taken[second] = (rate.taken[second] or 0) + quantity
  rate.sum = rate.sum + quantity
end

local function rate_take(rate, amount, quantity, now)
  rate.level, rate.at = level_of(rate, amount, now) + quantity, now
  rate_add(rate, quantity, now)
end

local function rate_correct(rate, amount, by, taken_at, now)
  rate.level, rate.at = math.max(0, level_of(rate, amount, now) + by), now
  local second = math.floor(taken_at)
  rate.is_changed = true
  if by > 0 then
    rate_add(rate, by, now)
  elseif rate.taken[second] then
    local back = math.min(-by, rate.taken[second])
    rate.taken[second], rate.sum = rate.taken[second] - back, rate.sum - back
  end
end

local function rate_standing(rate, amount, now)
  local newest = 0
  for second, units in pairs(rate.taken) do
    if units > 0 then newest = math.max(newest, second) end
  end
  local level = level_of(rate, amount, now)
  local clears = math.max(0, level / per_second(amount), newest > 0 and newest + 1 + WINDOW_S - now or 0)
  return math.max(rate.sum, math.ceil(level)), clears
end
