-- Sends each new radiograph to cxrd. None of its answers is CR or DX, so nothing is sent round again.
function OnStoredInstance(instanceId, tags, metadata)
  if tags['Modality'] == 'CR' or tags['Modality'] == 'DX' then
    SendToModality(instanceId, 'cxrd')
  end
end
