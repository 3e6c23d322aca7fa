-- What tasks have used up: core/usage.py in Lua. A sum only rises, and is at most 10^15. Needs usage_text.lua.

-- What a task is known to have used up. That of a copy from another store is in its body.
local function usage_of(id)
  local text = call('HGET', root .. 'usage', id)
  if text then return decode_usage(text) end
  local body = call('HGET', root .. 'body', id)
  return body and find(body, '"usage":', 1, true) and decode_usage(body .. '}').usage or {}
end

-- Store what a task reports; return by how much it has risen, nil if it has not.
local function report_usage(id, text)
  local stored, risen = usage_of(id), nil
  for name, sum in pairs(decode_usage(text)) do
    local before = stored[name]
    if not before or sum > before then
      risen = risen or {}
      risen[name], stored[name] = sum - (before or 0), sum
    end
  end
  if risen then call('HSET', root .. 'usage', id, usage_text(stored)) end
  return risen
end
