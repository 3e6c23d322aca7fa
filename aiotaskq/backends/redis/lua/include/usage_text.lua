-- What tasks have used up, by name, as JSON.

local function decode_usage(text)
  local ok, usage = pcall(cjson.decode, text or '')
  return ok and type(usage) == 'table' and usage or {}
end

-- cjson writes fewer digits.
local function usage_text(usage)
  local names, parts = {}, {}
  for name in pairs(usage) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local sum = usage[name]
    local format = sum == math.floor(sum) and sum < 2 ^ 53 and '%.0f' or '%.15g'
    parts[i] = cjson.encode(name) .. ':' .. string.format(format, sum)
  end
  return '{' .. table.concat(parts, ',') .. '}'
end
