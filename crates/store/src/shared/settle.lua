-- Ends reservations and books what was used. KEYS[i]: the cell of the i-th limit. ARGV: the replica, then six values per
-- limit: kind, reserved, used, most, window, time to live (ms). Gives what is used of each now.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local field = 'r:' .. ARGV[1]
local whole = function(number) return string.format('%.0f', number) end
local answer = {}
for i = 1, #KEYS do
  local at = 1 + (i - 1) * 6
  local kind, reserved, used = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local most, window, life = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  -- A server that was restarted without what it held knows of no reservation.
  local held = tonumber(redis.call('HGET', KEYS[i], field) or '0')
  local back = math.min(reserved, held)
  -- `-0` is no number to the server.
  if back > 0 then redis.call('HINCRBY', KEYS[i], field, whole(-back)) end
  local sum = 0
  if kind == 'r' then
    sum = math.max(tonumber(redis.call('HGET', KEYS[i], 'u') or '0'), now) + math.ceil(used * window / most)
    redis.call('HSET', KEYS[i], 'u', whole(sum))
  elseif kind ~= 'm' then
    sum = redis.call('HINCRBY', KEYS[i], 'u', whole(used))
  end
  redis.call('PEXPIRE', KEYS[i], life)
  answer[i] = sum
end
return answer
