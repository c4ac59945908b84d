{#- Upgrades a cluster, one member after the other: salt-run state.orchestrate orch.chefha.upgrade pillar='{cluster: chefha}'
    The runner chefha.upgrade does it; here it can stand among the steps of an orchestration of your own. #}
chefha_upgrade:
  salt.runner:
    - name: chefha.upgrade
    - cluster: {{ pillar.get('cluster', 'chefha') | json }}
    - packages: {{ pillar.get('packages', False) | json }}
    - timeout: {{ pillar.get('timeout', 900) | json }}
