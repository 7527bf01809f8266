-- One decision over several limits: all of them are taken, or none. Numbers are whole; times are microseconds of this
-- server's clock. What a cell holds: `u`, used in the window (calendar) or the time at which all has leaked away
-- (rolling); `r:REPLICA`, what calls of a replica have reserved.
--
-- KEYS[i]: the cell of the i-th limit. ARGV: the replica, then nine values per limit:
--   kind (r, c, m), amount that must fit, amount to take, most, window, burst, time to live (ms), whether it refuses, whether
--   what is taken is final.
-- Gives {0, i, wait, used, held} for a refusal by the i-th, with wait -1: when calls end, -2: when the window ends;
-- {2, i} where a budget's cell is missing; {1, used, held, over, ...} otherwise.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local me = ARGV[1]
local whole = function(number) return string.format('%.0f', number) end
local living = { [me] = true }
local function lives(who)
  if living[who] == nil then
    living[who] = redis.call('EXISTS', '{millgate}:replica:' .. who) == 1
  end
  return living[who]
end
local function takes(units, window, most) return math.ceil(units * window / most) end

local cells = {}
for i = 1, #KEYS do
  local at = 1 + (i - 1) * 9
  local kind, check, take = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local most, window, burst = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local life, refuses, final = tonumber(ARGV[at + 7]), ARGV[at + 8] == '1', ARGV[at + 9] == '1'
  local fields = redis.call('HGETALL', KEYS[i])
  if #fields == 0 and kind == 'b' then return { 2, i } end
  local used, held = 0, 0
  for j = 1, #fields, 2 do
    if fields[j] == 'u' then
      used = tonumber(fields[j + 1])
    elseif lives(string.sub(fields[j], 3)) then
      held = held + tonumber(fields[j + 1])
    else
      redis.call('HDEL', KEYS[i], fields[j])
    end
  end
  local fits, wait = true, 0
  if kind == 'm' then
    fits, wait = held + check <= most, -1
  elseif kind == 'r' then
    local filled, room = math.max(0, used - now), takes(math.min(burst, most), window, most) + 1
    fits = filled + takes(held + check, window, most) <= room
    if takes(check, window, most) > room then
      wait = window
    elseif filled + takes(check, window, most) <= room then
      wait = -1
    else
      wait = filled + takes(check, window, most) - room
    end
    used = filled
  else
    fits = used + held + check <= most
    wait = used + check <= most and -1 or -2
  end
  if not fits and refuses then return { 0, i, wait, used, held } end
  cells[i] = { kind = kind, take = take, most = most, window = window, life = life, final = final, used = used, held = held, over = not fits }
end

local answer = { 1 }
for i, cell in ipairs(cells) do
  if not cell.final then
    redis.call('HINCRBY', KEYS[i], 'r:' .. me, whole(cell.take))
    cell.held = cell.held + cell.take
  elseif cell.kind == 'r' then
    cell.used = cell.used + takes(cell.take, cell.window, cell.most)
    redis.call('HSET', KEYS[i], 'u', whole(now + cell.used))
  else
    redis.call('HINCRBY', KEYS[i], 'u', whole(cell.take))
    cell.used = cell.used + cell.take
  end
  redis.call('PEXPIRE', KEYS[i], cell.life)
  answer[#answer + 1] = cell.used
  answer[#answer + 1] = cell.held
  answer[#answer + 1] = cell.over and 1 or 0
end
return answer
