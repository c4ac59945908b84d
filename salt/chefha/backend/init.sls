# PostgreSQL, etcd, search and leaderl of one member. The order is that of the requisites; nothing waits for another
# node before chefha_etcd_healthy, so all members can be laid out at once, or one after the other.

include:
  - chefha.minion
  - chefha.firewall

chefha_packages:
  chefha.packages:
    - require:
      - chefha: chefha_settings

# Early: it takes a while to form a cluster. It is waited for only at the very end, so that nothing else waits for it.
chefha_search:
  chefha.search:
    - require:
      - chefha: chefha_packages

chefha_tls_files:
  chefha.tls_files:
    - require:
      - chefha: chefha_packages

chefha_etcd_member:
  chefha.etcd_member:
    - require:
      - chefha: chefha_tls_files

chefha_postgresql:
  chefha.postgresql:
    - require:
      - chefha: chefha_tls_files

chefha_etcd_healthy:
  chefha.etcd_healthy:
    - timeout: 120
    - require:
      - chefha: chefha_etcd_member

chefha_etcd_access:
  chefha.etcd_access:
    - require:
      - chefha: chefha_etcd_healthy

chefha_leaderl:
  chefha.leaderl:
    - require:
      - chefha: chefha_etcd_access
      - chefha: chefha_postgresql
    - watch:
      - chefha: chefha_library
      - chefha: chefha_settings

chefha_member_healthy:
  chefha.member_healthy:
    - timeout: 300
    - require:
      - chefha: chefha_leaderl

chefha_search_healthy:
  chefha.search_healthy:
    - timeout: 180
    - require:
      - chefha: chefha_search
      - chefha: chefha_member_healthy
