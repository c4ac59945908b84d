# A Chef Infra Server that keeps nothing of its own but cookbooks. It waits for the back end; all but the first front end
# (by name) wait for the first one's secrets, too, so all machines can be laid out at once.

include:
  - chefha.common
  - chefha.firewall

chefha_frontend_base:
  chefha.frontend_base:
    - require:
      - chefha: chefha_settings

chefha_frontend_package:
  chefha.frontend_package:
    - require:
      - chefha: chefha_frontend_base

chefha_frontend_config:
  chefha.frontend_config:
    - require:
      - chefha: chefha_frontend_package

chefha_backend_reachable:
  chefha.backend_reachable:
    - timeout: 900
    - require:
      - chefha: chefha_frontend_config

chefha_frontend_carried:
  chefha.frontend_carried:
    - timeout: 1800
    - require:
      - chefha: chefha_backend_reachable

chefha_frontend_reconfigured:
  chefha.frontend_reconfigured:
    - timeout: 1800
    - require:
      - chefha: chefha_frontend_carried
    - watch:
      - chefha: chefha_frontend_package
      - chefha: chefha_frontend_config

chefha_frontend_published:
  chefha.frontend_published:
    - require:
      - chefha: chefha_frontend_reconfigured
