-- One call of one gateway for the keys of one hash tag: what it has by now, what it corrects, what it asks.
-- KEYS: the owners' leases, when this tag came into being, the names of its accounts, then whatever the call points at.
-- ARGV: the call as JSON. Each ask takes all or nothing; asks are decided in order.

local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local call = cjson.decode(ARGV[1])
local alive = living(KEYS[1], call.owner, call.lease_s, now)
local born = tonumber(redis.call("GET", KEYS[2]) or now)
redis.call("SET", KEYS[2], string.format("%.6f", born), "PX", YEAR_MS)

local rates, amounts, running, accounts = {}, {}, {}, {}

local function rate_at(at, amount)
  if not rates[at] then rates[at] = load_rate(KEYS[at], now) end
  amounts[at] = amount
  return rates[at]
end

for _, said in ipairs(call.running) do running[said[1]] = load_running(KEYS[said[1]], call.owner, alive, said[2]) end
for _, said in ipairs(call.accounts) do
  accounts[said[1]] = load_account(KEYS[said[1]], call.owner, alive, said)
end
for _, each in ipairs(call.corrections) do
  rate_correct(rate_at(each[1], each[2]), each[2], each[3], tonumber(each[4]), now)
end

-- Gives for a limit how long it refuses: 0 not at all, -1 for ever, -2 nobody knows.
local function limit_wait(limit)
  local at, amount, quantity = limit[1], limit[2], limit[3]
  if limit[4] == 1 then return rate_wait(rate_at(at, amount), amount, quantity, now) end
  return running[at].others + running[at].own + quantity <= amount and 0 or -2
end

local function refuses(budget)
  local left = available(accounts[budget[1]], budget[2])
  if budget[4] == 1 then return is_negative(minus(left, number(budget[3]))) end
  return is_negative(left) or is_zero(left)
end

local function cannot_tell(ask)
  for _, budget in ipairs(ask.budgets) do
    if not accounts[budget[1]].version and not ask.is_blind then return "unknown", 0 end
  end
  for _, budget in ipairs(ask.budgets) do
    if budget[4] == 1 and now < born + call.settled_s then return "young", born + call.settled_s - now end
  end
end

local function refusal(ask)
  for at, limit in ipairs(ask.limits) do
    local wait = limit_wait(limit)
    if wait ~= 0 then return at, wait end
  end
  for at, budget in ipairs(ask.budgets) do
    if refuses(budget) then return #ask.limits + at, -2 end
  end
end

local function take(ask)
  for _, limit in ipairs(ask.limits) do
    if limit[4] == 1 then
      rate_take(rate_at(limit[1], limit[2]), limit[2], limit[3], now)
    else
      running[limit[1]].own = running[limit[1]].own + limit[3]
    end
  end
  for _, budget in ipairs(ask.budgets) do
    local account = accounts[budget[1]]
    account.held = plus(account.held, number(budget[3]))
    account.own_held = plus(account.own_held, number(budget[3]))
  end
end

local function limit_standing(limit)
  if limit[4] ~= 1 then return {running[limit[1]].others + running[limit[1]].own, -2} end
  local used, clears = rate_standing(rate_at(limit[1], limit[2]), limit[2], now)
  return {used, clears}
end

local function decide(ask)
  if ask.is_look then return "ok", 0, 0 end
  local state, wait = cannot_tell(ask)
  if state then return state, 0, wait end
  local refused, refused_s = refusal(ask)
  if refused then return "refused", refused, refused_s end
  take(ask)
  return "ok", 0, 0
end

local answers = {}
for _, ask in ipairs(call.asks) do
  local state, refused, wait = decide(ask)
  local answer = {state = state, refused = refused, wait = wait, limits = {}, budgets = {}}
  for at, limit in ipairs(ask.limits) do answer.limits[at] = limit_standing(limit) end
  for at, budget in ipairs(ask.budgets) do
    local account = accounts[budget[1]]
    answer.budgets[at] = {text_of(account.base or {0, 0}), text_of(account.spent), text_of(account.held)}
  end
  answers[#answers + 1] = answer
end

for at, rate in pairs(rates) do save_rate(KEYS[at], rate, amounts[at], now) end
for _, said in ipairs(call.running) do save_running(KEYS[said[1]], call.owner, running[said[1]]) end
local found = {}
for _, said in ipairs(call.accounts) do
  local account = accounts[said[1]]
  save_account(KEYS[3], KEYS[said[1]], call.owner, account, said)
  found[#found + 1] = {
    account.version or "", text_of(account.base or {0, 0}), text_of(account.spent), text_of(account.held)
  }
end
return {string.format("%.6f", now), cjson.encode({asks = answers, accounts = found})}
