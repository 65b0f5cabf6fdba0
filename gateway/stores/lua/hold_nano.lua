-- Whole numbers of 19 digits: a double holds 16. Two limbs, {hi, lo}, stand for hi * 1e9 + lo.

local LIMB = 1e9

local function number(text)
  local sign, digits = text:match("^(%-?)(%d+)$")
  local lo, hi = tonumber(digits:sub(-9)), tonumber(digits:sub(1, -10)) or 0
  if sign == "-" then return {-hi, -lo} end
  return {hi, lo}
end

local function plus(a, b) return {a[1] + b[1], a[2] + b[2]} end
local function minus(a, b) return {a[1] - b[1], a[2] - b[2]} end

-- Bring lo into [0, LIMB): then the number is negative if hi is.
local function carried(a)
  local carry = math.floor(a[2] / LIMB)
  return {a[1] + carry, a[2] - carry * LIMB}
end

local function is_negative(a) return carried(a)[1] < 0 end

local function is_zero(a)
  local whole = carried(a)
  return whole[1] == 0 and whole[2] == 0
end

local text_of
text_of = function(a)
  if is_negative(a) then return "-" .. text_of({-a[1], -a[2]}) end
  local whole = carried(a)
  if whole[1] == 0 then return string.format("%.0f", whole[2]) end
  return string.format("%.0f%09.0f", whole[1], whole[2])
end
