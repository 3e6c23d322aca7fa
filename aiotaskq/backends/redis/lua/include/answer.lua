-- Rows as a script returns them.
-- include: base

-- The fields of the head as the end of the JSON of a state, for an answer.
local function head_as_json(row)
  return ',"status":"' .. row.status .. '","fence":' .. row.fence .. ',"run_at":' .. row.run_at
    .. (tonumber(row.lease) and ',"lease_until":' .. row.lease or '')
    .. (row.cancel == '1' and ',"cancel_requested":true' or '') .. row.place
end

-- Return rows as they are answered, four words each: id, body, state as JSON, progress. A row that does not exist has
-- no state. json_states are the states as JSON where the caller has them already.
local function read_rows(ids, json_states)
  load_states(ids)
  local stored = read_fields('body', ids)
  local progress = call('HLEN', root .. 'progress') > 0 and read_fields('progress', ids)
  local usage = call('HLEN', root .. 'usage') > 0 and read_fields('usage', ids)
  local answer, n = {}, 0
  for i, id in ipairs(ids) do
    local state = json_states and json_states[i]
    if not state then
      local row = parse(states[id])
      state = row and sub(states[id], row.json) .. head_as_json(row) or states[id] or ''
    end
    if usage and usage[i] and state ~= '' then state = state .. ',"usage":' .. usage[i] end
    answer[n + 1], answer[n + 2], answer[n + 3] = id, stored[i] or '', state
    answer[n + 4] = progress and progress[i] and ',"progress":' .. progress[i] or ''
    n = n + 4
  end
  return answer
end
