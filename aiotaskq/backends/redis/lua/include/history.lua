-- What workers did. For each length of a period there is a sorted set of the instants at which periods began, and for
-- each of these a hash: queue, type and kind as JSON to 'n run_us wait_us|runs|waits|usage': two histograms, and JSON
-- or ''.
-- Needs usage_text.lua.
local root, call, format = KEYS[1], redis.call, string.format

local function sum_of(one, other) return format('%.0f', tonumber(one) + tonumber(other)) end

-- The sum of two histograms: 'bucket:count', divided by blanks, in the order of the buckets.
local function both(one, other)
  local counts, numbers = {}, {}
  for number, count in string.gmatch(one .. ' ' .. other, '(%d+):(%d+)') do
    number = tonumber(number)
    if not counts[number] then numbers[#numbers + 1] = number end
    counts[number] = (counts[number] or 0) + tonumber(count)
  end
  table.sort(numbers)
  for i, number in ipairs(numbers) do numbers[i] = format('%d:%.0f', number, counts[number]) end
  return table.concat(numbers, ' ')
end

local function parts(value) return string.match(value, '^(%d+) (%d+) (%d+)|([^|]*)|([^|]*)|(.*)$') end

local function both_used(one, other)
  if one == '' or other == '' then return one .. other end
  local sums = decode_usage(one)
  for name, sum in pairs(decode_usage(other)) do sums[name] = (sums[name] or 0) + sum end
  return usage_text(sums)
end

local function add_period(seconds, at, field, value)
  local index = root .. 'history:' .. seconds
  local key = index .. ':' .. at
  local there = call('HGET', key, field)
  if there then
    local n, run_us, wait_us, runs, waits, used = parts(value)
    local m, other_run_us, other_wait_us, other_runs, other_waits, other_used = parts(there)
    value = sum_of(n, m) .. ' ' .. sum_of(run_us, other_run_us) .. ' ' .. sum_of(wait_us, other_wait_us)
      .. '|' .. both(runs, other_runs) .. '|' .. both(waits, other_waits) .. '|' .. both_used(used, other_used)
  else
    call('ZADD', index, at, at)
  end
  call('HSET', key, field, value)
end
