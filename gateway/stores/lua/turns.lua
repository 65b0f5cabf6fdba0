-- Turns by virtual counters: core/turns.py over Redis. A round is a set of names that take turns.
-- A standing is a counter, and for those that take part the number of the ticket that made them, in DIGITS each.

local function standing_of(round, name)
  local standing = redis.call('HGET', STANDINGS, round .. NUL .. name)
  if not standing then return nil, '' end
  return tonumber(string.sub(standing, 1, DIGITS)), string.sub(standing, DIGITS + 1), standing
end

local function set_of(standing) return #standing == DIGITS and IDLE or ROUNDS end

-- Change the standing of a name; *was* is the one it had, if any.
local function stand(round, name, was, counter, joined)
  if was then redis.call('ZREM', set_of(was), round .. NUL .. was .. name) end
  local standing = digits(counter) .. joined
  redis.call('HSET', STANDINGS, round .. NUL .. name, standing)
  redis.call('ZADD', set_of(standing), 0, round .. NUL .. standing .. name)
end

-- The name whose turn it is and its counter, or nothing.
local function turns_first(round)
  local entry = first_with(ROUNDS, round)
  if not entry then return nil end
  local counter = tonumber(string.sub(entry, #round + 2, #round + 1 + DIGITS))
  return string.sub(entry, #round + 2 + 2 * DIGITS), counter
end

-- Let a name take part, lifted to the smallest; one that does already stays as it is.
local function turns_join(round, name, number)
  local counter, joined, was = standing_of(round, name)
  if joined ~= '' then return end
  local _, smallest = turns_first(round)
  stand(round, name, was, math.max(counter or 0, smallest or number_in(FLOORS, round)), number)
end

local function turns_leave(round, name)
  local counter, _, was = standing_of(round, name)
  stand(round, name, was, counter, '')
end

-- Forget those that are idle and not ahead of *floor*: lifting would overrule their counters anyway.
local function forget(round, floor)
  local from, to = '[' .. round .. NUL, '(' .. round .. NUL .. digits(floor + 1)
  local entries = redis.call('ZRANGEBYLEX', IDLE, from, to)
  for _, entry in ipairs(entries) do
    redis.call('HDEL', STANDINGS, round .. NUL .. string.sub(entry, #round + 2 + DIGITS))
  end
  if entries[1] then redis.call('ZREMRANGEBYLEX', IDLE, from, to) end
end

-- Charge the name whose turn it is; it may leave with that.
local function turns_charge(round, name, amount, leaves)
  local counter, joined, was = standing_of(round, name)
  redis.call('HSET', FLOORS, round, digits(counter))
  forget(round, counter)
  stand(round, name, was, counter + amount, leaves and '' or joined)
end

local function turns_settle(round, name, amount)
  local counter, joined, was = standing_of(round, name)
  if counter then stand(round, name, was, math.max(0, counter + amount), joined) end
end

-- End a round in which nobody takes part any more.
local function turns_end(round)
  for _, entry in ipairs(starting_with(IDLE, round)) do
    redis.call('HDEL', STANDINGS, round .. NUL .. string.sub(entry, #round + 2 + DIGITS))
  end
  redis.call('ZREMRANGEBYLEX', IDLE, '[' .. round .. NUL, '(' .. round .. AFTER_NUL)
  redis.call('HDEL', FLOORS, round)
end
