-- Share which requests went away: take the caller's news, give back what all have told since.
--
-- KEYS  1 a sorted set  "mark first-arrival gateway" -> when that was told, in ms of Redis's clock
-- ARGV  1 the ms up to which the caller has heard, 2 how long one is kept, in ms, 3 how many are kept, then the news
--
-- Gives the ms of now, then the news of all gateways since. What was told in the very ms that was heard last is given
-- again: to hear of a request twice changes nothing.
local RETURNS = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local since = tonumber(ARGV[1])
if since > now then since = 0 end -- another Redis took over, with another clock

for i = 4, #ARGV do redis.call('ZADD', RETURNS, now, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', RETURNS, '-inf', now - tonumber(ARGV[2]))
redis.call('ZREMRANGEBYRANK', RETURNS, 0, -1 - tonumber(ARGV[3]))

local news = redis.call('ZRANGEBYSCORE', RETURNS, since, '+inf')
table.insert(news, 1, now)
return news
